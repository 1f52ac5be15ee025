"""Taking a kernel out of its package: modules in the order they need, and a kernel that is packed unknown."""

import lzma
from pathlib import Path

import pytest
from tests.kvm_rig.debian import Tree, in_order, unpacked_kernel

from dynmem.errors import DynmemError


def module(needs: bytes) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + needs + b"\0name=x\0"


def test_modules_come_after_those_that_they_need_and_once() -> None:
    modules = {
        "hv_balloon": (module(b"hv_vmbus"), False),
        "hv_utils": (lzma.compress(module(b"hv_vmbus,pps-core")), True),
        "hv_vmbus": (module(b""), False),
        "pps_core": (module(b""), False),
        "other": (module(b""), False),
    }
    order = list(in_order(["hv_balloon", "hv_utils"], modules))
    assert [name for name, _ in order] == ["hv_vmbus", "hv_balloon", "pps_core", "hv_utils"]
    assert all(data.startswith(b"\x7fELF") for _, data in order)


def test_a_kernel_that_is_packed_in_an_unknown_way_is_named() -> None:
    with pytest.raises(DynmemError, match="packed in a way"):
        unpacked_kernel(bytes(0x1000), Tree(Path("nowhere")))
