"""Every parser of the project as a target, with right seeds and a check that holds for any input."""

import functools
import io
import json
import logging
import os
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from tests.fuzz.engine import Target
from tests.wire.test_dm import BY_HAND, CAPTURED
from tests.wire.test_vmbus import CAPTURED as CHANNEL_BYTES

from dynmem.errors import ConfigError, RemoteProtocolError
from dynmem.guest.curve import parse_load
from dynmem.guest.told import Told
from dynmem.lab.workload import Report, latest_report
from dynmem.limits import GUEST_ADDRESS_BYTES_MAX
from dynmem.manager import config
from dynmem.manager.api.messages import Request
from dynmem.qmp.framing import LineReader, decode_line, decode_value, split_line
from dynmem.qmp.lexer import Lexer
from dynmem.qmp.parser import ValueReader
from dynmem.trace import reader, show
from dynmem.units import parse_duration, parse_size
from dynmem.vm.options import machine as options
from dynmem.vm.options import memory as memory_options
from dynmem.vm.options.actions import parse_actions
from dynmem.vm.options.boot import parse_processors, parse_vmbus_version
from dynmem.vm.options.console import parse_serial
from dynmem.vm.options.text import is_identifier
from dynmem.wire import dm, hardware, monitor_page, packet, synic, vmbus
from dynmem.wire.versions import VERSION_5_3, VERSION_WIN8

REMOTE = (RemoteProtocolError,)
GUEST_PAGES = 32_768


def octets(vectors: list[Any]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(vector[0]) for vector in vectors)


DM_SEEDS = octets([*CAPTURED, *BY_HAND])
CHANNEL_SEEDS = (
    *octets(CHANNEL_BYTES),
    *(
        vmbus.encode(message)
        for message in (
            vmbus.GpadlBody(1, 7, bytes(range(64))),
            vmbus.GpadlTeardown(1, 7),
            vmbus.GpadlTorndown(7),
            vmbus.CloseChannel(1),
            vmbus.RelidReleased(1),
            vmbus.Unload(),
            vmbus.OpenReservedChannel(1, 0, 2, 7, 5),
            vmbus.TlConnectRequest(uuid.UUID(int=1), uuid.UUID(int=2)),
            vmbus.ModifyChannel(1, 0),
            vmbus.ModifyConnection(0x1000, 0x2000),
            vmbus.Resume(),
        )
    ),
)
GPA_RANGES = packet.encode_gpa_ranges([packet.GpaRange(5000, 100, bytes(16))] * 2)
PACKETS = (
    packet.encode(packet.Packet(6, 1, 5, DM_SEEDS[0]), 0),
    packet.encode(packet.Packet(7, 0, 5, bytes(16), bytes(24)), 64),
    packet.encode(packet.Packet(9, 0, 5, bytes(8), GPA_RANGES), 64),
    packet.encode(packet.Packet(11, 0, 5, b""), 64),
)


def codec(
    decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]
) -> Callable[[], Callable[[bytes], None]]:
    """Feed a decoder, and hold that what it accepts is encoded and decoded to the same again."""

    def feed(data: bytes) -> None:
        message = decode(data)
        assert decode(encode(message)) == message

    return lambda: feed


def older_versions() -> Callable[[bytes], None]:
    """Control messages as connections of older versions read them."""
    versions = (0, VERSION_WIN8, VERSION_5_3)

    def feed(data: bytes) -> None:
        vmbus.decode(data, versions[len(data) % 3])

    return feed


def in_pieces(data: bytes) -> list[bytes]:
    """One stream whole, byte by byte or cut somewhere, as the input itself decides."""
    way = sum(data[:4]) % 3
    if way == 0:
        return [data]
    if way == 1:
        return [data[at : at + 1] for at in range(len(data))]
    step = 1 + sum(data) % 13
    return [data[at : at + step] for at in range(0, len(data), step)]


def lines() -> Callable[[bytes], None]:
    """A monitor's replies: the same objects, or the same refusal, however the bytes arrive."""

    def outcome(pieces: list[bytes]) -> list[dict[str, object]] | None:
        stream, found = LineReader(message_bytes_max=300), []
        try:
            for piece in pieces:
                found += [decode_line(line) for line in stream.feed(piece) if line.strip()]
        except RemoteProtocolError:
            return None
        return found

    def feed(data: bytes) -> None:
        found = outcome(in_pieces(data))
        assert found == outcome([data])
        for line in data.split(b"\n"):
            with suppress(*REMOTE):
                message = split_line(line)
                number = message.number()
                assert number is None or number >= 0
                decode_value(bytes(message.reply), "a reply", values_max=50)

    return feed


def tokens() -> Callable[[bytes], None]:
    """A client's bytes cut into tokens: no byte is lost or invented, however they arrive."""

    def feed(data: bytes) -> None:
        lexer = Lexer()
        found = [token for piece in in_pieces(data) for token in lexer.feed(piece)]
        assert sum(len(token.text) for token in found) + lexer.pending_bytes <= len(data)

    return feed


def commands() -> Callable[[bytes], None]:
    """A client's commands: the reader is bounded, and understands a plain command after anything."""
    turn = 0

    def feed(data: bytes) -> None:
        nonlocal turn
        turn += 1
        stream = ValueReader(message_bytes_max=100)
        for piece in in_pieces(data):
            stream.feed(piece)
        if turn % 8 == 0:  # the byte that fits nowhere ends whatever was begun
            assert stream.feed(b'\xff\n{"id": 1}')[-1] == {"id": 1}

    return feed


def texts(*parsers: Callable[[str], object]) -> Callable[[], Callable[[bytes], None]]:
    """Feed command-line words, each parser in turn; bytes come in as Python hands over arguments."""

    def make() -> Callable[[bytes], None]:
        turn = 0

        def feed(data: bytes) -> None:
            nonlocal turn
            turn += 1
            parsers[turn % len(parsers)](os.fsdecode(data))

        return feed

    return make


def memory_texts() -> Callable[[bytes], None]:
    """Options about memory, each before a colon: what is taken is within the limits of a machine."""

    def feed(data: bytes) -> None:
        option, _, text = os.fsdecode(data).partition(":")
        if option == "object":
            backend = memory_options.parse_object(text)
            assert is_identifier(backend.identity)
        elif option == "device":
            _, dimms = options.parse_devices((text,))
            assert all(dimm.memdev and 0 <= dimm.address < 1 << 64 for dimm in dimms)
        elif option == "machine":
            options.parse_machine(text)
        else:
            memory = memory_options.parse_memory(text)
            assert memory.size <= memory.maximum
            if memory.can_grow:
                addresses = memory.device_memory(memory.size)
                assert memory.size <= addresses.start
                assert memory.maximum - memory.size <= len(addresses)
                assert addresses.stop <= GUEST_ADDRESS_BYTES_MAX

    return feed


def wishes() -> Callable[[bytes], None]:
    """What a workload is told by a file, which changes under it: the last thing that could be read."""
    descriptor = os.memfd_create("wish")
    told = Told(Path(f"/proc/self/fd/{descriptor}"))
    log = logging.getLogger("dynmem.guest.told")

    def feed(data: bytes) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        log.disabled = True  # a line for most of a million mutants; others want to see what it says
        try:
            assert told.amount().pages(GUEST_PAGES) >= 0
        finally:
            log.disabled = False

    weakref.finalize(feed, os.close, descriptor)
    return feed


def configurations() -> Callable[[bytes], None]:
    """The manager's file, through a descriptor that never touches a disk."""
    descriptor = os.memfd_create("config")
    path = Path(f"/proc/self/fd/{descriptor}")

    def feed(data: bytes) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        config.load(path)

    weakref.finalize(feed, os.close, descriptor)
    return feed


def requests() -> Callable[[bytes], object]:
    """What is asked of the manager's own socket."""
    return msgspec.json.Decoder(Request).decode


def captures() -> Callable[[bytes], None]:
    """Captures and trace logs: every line is an entry that can be shown, or a problem with its number."""

    def feed(data: bytes) -> None:
        lines_there = data.count(b"\n") + 1
        for found in reader.read(io.BytesIO(data)):
            if isinstance(found, reader.Problem):
                assert 1 <= found.line <= lines_there
                assert found.text
            else:
                assert b"\n" not in show.as_json(found)
                assert "\n" not in show.as_text(found)

    return feed


TEXT = bytes(range(0x20, 0x7F)) + b"0123456789\n"
CAPTURES = tuple(
    line
    for name in ("wire.log", "trace.log", "ring-packets.txt")
    for line in sorted(set((Path(__file__).parent.parent / "captures" / name).read_bytes().splitlines(True)))
    if len(line) < 260
)[::7]
CAPTURE_WORDS = (
    b"\n",
    b" ",
    b"G>H",
    b"msg ",
    b"pkt ",
    b" type 9",
    b" id 99999999999999999999",
    b"hv_balloon_",
    b"2026-03-02T11:20:41.007512Z ",
    b"[web] qemu-kvm(1:main): ",
    b"\xe4",
)
REPORT = {"t": 1.5, **dict.fromkeys(Report.__struct_fields__[1:], 7)}
CONSOLE = (b"[ 1.2] x\n" + json.dumps(REPORT).encode() + b"\r\n", b'{"t": 1, "held_pages":')
QMP_LINES = (
    b'{"return": {"status": "running", "x": [1, 2.5e3, null]}, "id": "a-1"}\r\n',
    b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {"guest": false}}\n',
    b'{"error": {"class": "GenericError", "desc": "\\u00e4\\n"}}\r\n{"return": {}}\r\n',
)
QMP_COMMANDS = (
    b'{"execute": "stop"}',
    b'{"arguments": {"value": 512}}',
    b'{"id": [1, -2.5e-3, "\\ud83d\\ude00"]}',
    b"{'id': {'a': [true, null, '\\n']}}",
)
JSON_WORDS = (b"{", b"}", b"[", b"]", b'"', b"\\u", b"\n", b"\xff", b"-", b"1e999", b"null", b"0" * 40)
OPTIONS = (
    b"hv-balloon,id=hvb,status-report=on,x-post-init-wait=500",
    b"unix:/run/vm/web.qmp,server=on,wait=off",
    b"embedded,workload=sine,period=20s,low=5%,high=80%,rate=256MiB,seed=7",
    b"size=512M,maxmem=1G",
    b"file:/tmp/serial",
    b"web",
)
OPTION_WORDS = (
    b",",
    b",,",
    b"=",
    b"%",
    b"=on",
    b"id=",
    b"\0",
    b"\xff",
    b"9" * 30,
    b"GiB",
    b"-",
    b"1e400",
    b"nan",
)
MEMORY_OPTIONS = (
    b"memory:size=512M,maxmem=8G,slots=4",
    b"memory:512M,maxmem=1023G",
    b"object:memory-backend-ram,id=r0,size=1G,share=on,prealloc=off",
    b"object:memory-backend-memfd,id=m0,size=64M,hugetlb=on,hugetlbsize=2M",
    b"object:memory-backend-file,id=f0,size=64M,share=on,mem-path=/dev/shm/a,,b,discard-data=on",
    b"device:pc-dimm,id=d0,memdev=m0,addr=0x800000000,slot=2,node=0",
    b"device:hv-balloon,id=hvb,memdev=m0,addr=34359738368,x-startup=last,status-report=on",
    b"machine:pc,memory-backend=m0",
)
WISHES = (b"40M", b"80%\n", b" 12.5 %", b"1.5GiB")
LOADS = (
    b"sine,period=20s,phase=0.25,low=5%,high=80%,rate=256MiB",
    b"pulse,from=-7.2,to=46.8,low=64MiB,high=0.8,rate=96MiB",
    b"steady",
)
SIZES = (b"512 MiB", b"1.5GiB", b"4096", b"100ms", b"2h", b"0.5 s")
CONFIG = (
    b'[host]\nbudget="1GiB"\nslush=0\n',
    b'[host]\nbudget=8e9\n[manager]\nmode="enforce"\nperiod="1s"\n',
    b'[manager]\nsocket="/s"\nstate="/t"\n[host]\nbudget=1000000000\n',
    b'[host]\nbudget="1GiB"\n[[vm]]\nname="a"\nqmp="/a"\nminimum="64MiB"\nmaximum=268435456\nweight=7\n',
)
CONFIG_WORDS = (
    b"\n",
    b"=",
    b'"',
    b"[",
    b"]",
    b"[[vm]]\n",
    b"nan",
    b"-1",
    b"1e999",
    b"2020-01-01",
    b"\xff",
    b"{}",
)
REQUESTS = (
    b'{"command": "status"}',
    b'{"command": "reserve", "name": "web", "size_bytes": 1073741824, "wait_ns": 30000000000}',
    b'{"command": "admit", "name": "web", "size_bytes": 1073741824, "monitor": "/run/vm/web.qmp"}',
    b'{"command": "take-up", "vm": null}',
)
PAGE = monitor_page.encode(monitor_page.MonitorPage(1, (2,) * 4, (3,) * 4))
SLOTS = synic.encode_slot(synic.MessageSlot(1, b"payload", True, 3)) * 16

PARSERS = (
    Target("dm", codec(dm.decode, dm.encode), DM_SEEDS, REMOTE),
    Target("channel", codec(vmbus.decode, vmbus.encode), CHANNEL_SEEDS, REMOTE),
    Target("channel-versions", older_versions, CHANNEL_SEEDS, REMOTE),
    Target("packet", codec(packet.decode, functools.partial(packet.encode, write_index=0)), PACKETS, REMOTE),
    Target("gpa-ranges", codec(packet.decode_gpa_ranges, packet.encode_gpa_ranges), (GPA_RANGES,), REMOTE),
    Target("packet-length", lambda: packet.peek_length, tuple(item[:16] for item in PACKETS), REMOTE),
    Target("post", codec(synic.decode_post, synic.encode_post), (SLOTS[:256],), REMOTE),
    Target("signal", codec(synic.decode_signal, synic.encode_signal), (bytes(8), bytes(9)), REMOTE),
    Target("slot", codec(synic.decode_slot, synic.encode_slot), (SLOTS[:256],), REMOTE),
    Target("message-page", lambda: synic.decode_message_page, (SLOTS,), REMOTE),
    Target("event-flags", codec(synic.decode_event_flags, synic.encode_event_flags), (bytes(256),), REMOTE),
    Target("monitor-page", codec(monitor_page.decode, monitor_page.encode), (PAGE,), REMOTE),
    Target(
        "hardware",
        codec(hardware.decode, hardware.encode),
        (
            hardware.encode(hardware.MapSlot(0, 0, 1 << 29, 0)),
            hardware.encode(hardware.Hypercall(7, 0x5C, 0x1000)),
            hardware.encode(hardware.WriteMsr(8, 0x40000083, 1)),
            hardware.encode(hardware.Reply(7, 0)),
            hardware.encode(hardware.Start()),
            hardware.encode(hardware.SlotMapped(2)),
            hardware.encode(hardware.UnmapSlot(3)),
            hardware.encode(hardware.SlotUnmapped(3)),
            hardware.encode(hardware.PlugMemory(4)),
            hardware.encode(hardware.UnplugMemory(4)),
            hardware.encode(hardware.UnplugAnswered(4, is_done=True)),
            hardware.encode(hardware.UnplugAnswered(4, is_done=False)),
        ),
        REMOTE,
    ),
    Target("qmp-lines", lines, QMP_LINES, (), JSON_WORDS, TEXT),
    Target("qmp-tokens", tokens, QMP_COMMANDS, (), JSON_WORDS, TEXT),
    Target("qmp-commands", commands, QMP_COMMANDS, (), JSON_WORDS, TEXT),
    Target(
        "vm-options",
        texts(
            options.parse_name,
            memory_options.parse_memory,
            memory_options.parse_object,
            lambda text: options.parse_devices((text,)),
            options.parse_machine,
            options.parse_qmp,
            options.parse_guest,
            parse_serial,
            parse_processors,
            parse_vmbus_version,
            lambda text: parse_actions((text,), no_reboot=False),
        ),
        OPTIONS,
        (ConfigError,),
        OPTION_WORDS,
        TEXT,
    ),
    Target("vm-memory", memory_texts, MEMORY_OPTIONS, (ConfigError,), OPTION_WORDS, TEXT),
    Target("told", wishes, WISHES, (), OPTION_WORDS, b"0123456789.%KMGiB \n", cost=4),
    Target("workload", texts(parse_load), LOADS, (ConfigError,), OPTION_WORDS, TEXT),
    Target("units", texts(parse_size, parse_duration), SIZES, (ValueError,), OPTION_WORDS, TEXT),
    Target("lab-report", lambda: latest_report, CONSOLE, (), JSON_WORDS, TEXT),
    Target("manager-config", configurations, CONFIG, (ConfigError,), CONFIG_WORDS, TEXT),
    Target("trace", captures, CAPTURES, (), CAPTURE_WORDS, b"0123456789abcdef>GHx:@ "),
    Target(
        "manager-request", requests, REQUESTS, (msgspec.DecodeError, UnicodeDecodeError), JSON_WORDS, TEXT
    ),
)
