"""What libvirt sends, as targets: a domain's definition with its policy, and the figures of its balloon."""

import functools
from collections.abc import Callable
from typing import Any

import msgspec
from tests.fuzz.engine import Target
from tests.rigs import libvirts

from dynmem.domains.api import Look
from dynmem.domains.definition import definition_of
from dynmem.domains.states import run_state
from dynmem.errors import ConfigError, RemoteProtocolError
from dynmem.manager.domains.connection import _report
from dynmem.manager.domains.policies import policy_of
from dynmem.scan.domains import as_monitored
from dynmem.units import GIB, MIB

# The same in every run, as all seeds have to be.
xml = functools.partial(libvirts.xml, uuid="c7a5fdbd-cdaf-9455-926a-d65c16db1809")
PLUGGED = (
    "<memory model='{}'><target><size unit='KiB'>65536</size><requested>2048</requested></target></memory>"
)
DEFINITIONS = tuple(
    text.encode()
    for text in (
        xml(policy='minimum="64MiB" maximum="128MiB" buffer="30" weight="9" priority="high"'),
        xml(more=PLUGGED.format("dimm") + PLUGGED.format("virtio-mem"), policy='minimum="1GiB"'),
        xml("db", balloon="<memballoon model='none'/>"),
    )
)
STATISTICS = (
    b'{"actual":131072,"unused":79380,"usable":82488,"last_update":1795826195,"disk_caches":1024,"rss":176816}',
    b'{"actual":131072,"minor_fault":67,"major_fault":3,"swap_in":8,"swap_out":0,"available":223636,"usable":0}',
)
WORDS = (
    b"<policy xmlns='urn:dynmem:policy:1'/>",
    b"<!ENTITY a 'b'>",
    b"&a;",
    b"<memory>",
    b"18446744073709551615",
)
TEXT = b"<>/='\" abcdefgilmnoprstuvwxyz0123456789KMGi-"


def definitions() -> Callable[[bytes], object]:
    def feed(data: bytes) -> object:
        found = definition_of(data.decode(errors="replace"))
        assert 0 < found.boot_bytes < 1 << 53
        if found.policy is None:
            return found
        policy = policy_of(found, GIB)
        assert 16 * MIB <= policy.minimum_bytes <= policy.maximum_bytes
        assert not policy.on_out_of_memory
        return policy

    return feed


def statistics() -> Callable[[bytes], object]:
    domain = definition_of(xml())

    def feed(data: bytes) -> object:
        said: Any = msgspec.json.decode(data, type=dict[str, object])
        look = Look(1, 1, None, 1024, said)
        assert run_state(look) == "running"
        as_monitored(domain, look)  # of whatever it raises nothing comes out
        return _report(said)

    return feed


DOMAINS = (
    Target("domain", definitions, DEFINITIONS, (RemoteProtocolError, ConfigError), WORDS, TEXT, cost=2),
    Target(
        "domain-statistics",
        statistics,
        STATISTICS,
        (RemoteProtocolError, msgspec.DecodeError, UnicodeDecodeError),
        (b"null", b"-1", b"18446744073709551615", b"1e400", b'"?"'),
        b'{}":,-0123456789abcdefghijklmnopqrstuvwxyz_',
    ),
)
