"""The options of a machine, written as QEMU writes them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.errors import ConfigError
from dynmem.units import MIB, NS_PER_MS
from dynmem.vm import options
from dynmem.vm.options import BalloonOptions, GuestOptions


def test_a_doubled_comma_is_a_comma() -> None:
    assert options.parse_qmp("unix:/tmp/a,,b,server=on,wait=off") == Path("/tmp/a,b")


def test_a_socket_may_lie_under_a_name_that_is_no_text() -> None:
    path = options.parse_qmp("unix:/tmp/\udce4,server=on,wait=off")  # a byte 0xe4, as Python hands it over
    assert os.fsencode(path) == b"/tmp/\xe4"


KEYS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@given(st.dictionaries(KEYS, st.text(st.characters(blacklist_characters="\0"))))
def test_any_text_can_be_a_value(values: dict[str, str]) -> None:
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())
    if values:
        assert options.split_options("x", text, implied="first") == values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512),
        ("512", 512),
        ("1G", 1024),
        ("size=1.5G", 1536),
        ("512M,maxmem=512M", 512),
        ("64MiB", 64),
    ],
)
def test_memory_is_in_mebibytes_unless_said_otherwise(text: str, size: int) -> None:
    assert options.parse_memory(text) == size * MIB


def test_a_device_has_qemus_defaults() -> None:
    assert options.parse_device("hv-balloon") == BalloonOptions("hv-balloon", status_report=False)
    assert options.parse_device(
        "driver=hv-balloon,id=b,status-report=on,x-post-init-wait=50"
    ) == BalloonOptions("b", status_report=True, post_init_wait_ns=50 * NS_PER_MS)


def test_keys_of_a_guest_that_are_not_the_machines_go_to_its_workload() -> None:
    text = "embedded,workload=sine,seed=7,low=5%,program=/bin/x"
    assert options.parse_guest(text) == GuestOptions("sine,low=5%", 7, Path("/bin/x"))
    assert options.parse_guest("embedded") == GuestOptions()


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (options.parse_memory, "12X", "'12X' is not a size"),
        (options.parse_memory, "1M", "between 32 MiB and 1 TiB"),
        (options.parse_memory, "64M,maxmem=128M", "growing beyond the boot size is not there yet"),
        (options.parse_memory, "64M,maxmem=32M", "maxmem is below the size"),
        (options.parse_memory, "64M,slots=3", "'slots' is not known; there are size, maxmem"),
        (options.parse_memory, "maxmem=64M", "size is missing"),
        (options.parse_memory, "67108865B", "whole pages"),
        (options.parse_device, "virtio-balloon", "there is hv-balloon"),
        (options.parse_device, "hv-balloon,status-report=maybe", "status-report is on or off, not 'maybe'"),
        (options.parse_device, "hv-balloon,memdev=m", "'memdev' is not known"),
        (options.parse_device, "hv-balloon,x-post-init-wait=-1", "x-post-init-wait is a whole number"),
        (options.parse_device, "hv-balloon,id=a,id=b", "id is given twice"),
        (options.parse_device, "hv-balloon,,", "is not a device"),
        (options.parse_device, "hv-balloon,", "nothing between two commas"),
        (options.parse_qmp, "tcp:localhost:4444,server=on,wait=off", "write it like unix:"),
        (options.parse_qmp, "unix:/tmp/x", "add server=on"),
        (options.parse_qmp, "unix:/tmp/x,server=on", "add wait=off"),
        (options.parse_qmp, "unix:" + "x" * 108 + ",server=on,wait=off", "at most 107 bytes"),
        (options.parse_guest, "linux", "'linux' is no kind of guest"),
        (options.parse_guest, "embedded,seed=x", "seed is a whole number"),
        (options.parse_serial, "stdio", "write file:PATH or none"),
        (options.parse_name, "", "1 to 64 printable characters"),
        (options.parse_name, "a\nb", "printable"),
    ],
)
def test_a_wrong_option_is_refused_with_a_sentence_that_names_it(
    parse: Callable[[str], object], text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert said in str(refused.value)
    assert repr(text) in str(refused.value)


def test_there_is_one_balloon_at_most() -> None:
    with pytest.raises(ConfigError, match="Only one balloon device is supported"):
        options.parse_devices(("hv-balloon", "hv-balloon"))
    assert options.parse_devices(()) is None
