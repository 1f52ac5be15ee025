"""``dynmem scan``: one table, sentences below it, and JSON whose fields are documented."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from dynmem.cli.scan import scan
from dynmem.cli.scan_text import rendered
from dynmem.discovery import find
from dynmem.discovery.find import Found, FoundVm
from dynmem.discovery.qemu_options import started_as
from dynmem.errors import UnreachableError
from dynmem.scan.report import ScanReport, VmReport

MIB = 1 << 20
GIB = 1 << 30
DOCUMENT = Path(__file__).parents[2] / "docs" / "scan.md"


def vm(name: str = "web", **changes: object) -> VmReport:
    known: dict[str, object] = dict.fromkeys(VmReport.__struct_fields__)
    known |= dict.fromkeys(
        ("uuid", "lock", "run_state", "knob_reason", "limit_file", "finding", "change"), ""
    )
    known |= {"name": name, "pid": 7, "keeper": "qemu", "knob": "none", "devices": (), "driver": "unknown"}
    known |= {
        "driver_evidence": "no program asks",
        "discards": "unknown",
        "discards_evidence": "not looked at",
    }
    known |= {"worst": "none", "worst_bytes": 0, "unseen": (), "limit_is_known": True}
    return msgspec.convert(known | changes, VmReport)


def report(vms: Sequence[VmReport] = (), unseen: tuple[str, ...] = ()) -> ScanReport:
    return ScanReport(
        host_total_bytes=64 * GIB,
        host_available_bytes=8 * GIB,
        host_swap_used_bytes=0,
        seconds=0.1,
        vms=tuple(vms),
        unseen=unseen,
    )


WEB = vm(
    monitor="/run/web.qmp",
    assigned_bytes=4 * GIB,
    resident_bytes=4 * GIB,
    swapped_bytes=0,
    guest_uses_bytes=GIB,
    stranded_bytes=2 * GIB,
    could_give_bytes=3 * GIB,
    knob="balloon",
    devices=("virtio-balloon",),
    driver="live",
    discards="effective",
    finding="2 GiB or more is free in its guest",
    change="`virsh setmem web 1G`",
)


def test_each_vm_is_a_line_and_what_is_not_known_is_a_question_mark() -> None:
    lines = rendered(report([WEB, vm("db", number=101)]), None).splitlines()
    assert lines[0].startswith(
        "host 64 GiB, available 8 GiB, in swap 0 B; VMs 2, stranded 2 GiB, could be given"
    )
    assert lines[3].split("  ")[0] == "web"
    assert re.split(r"\s{2,}", lines[3])[2:] == [
        *("4 GiB", "4 GiB", "0 B", "1 GiB", "3 GiB", "balloon", "2 GiB", "virtio-balloon", "live", "yes", "-")
    ]
    assert re.split(r"\s{2,}", lines[4]) == ["db", "101", *"?????", "-", *"????", "-"]
    assert "web: 2 GiB or more is free in its guest -> `virsh setmem web 1G`" in lines


def test_a_vm_that_is_named_is_shown_with_its_evidence() -> None:
    shown = rendered(report([vm(unseen=("its open files",))]), 80, with_evidence=True)
    assert "driver unknown: no program asks" in shown
    assert "discards unknown: not looked at" in shown
    assert "not seen: its open files" in shown


def test_the_same_thing_that_was_not_seen_of_many_vms_is_one_line() -> None:
    shown = rendered(report([vm(str(each), unseen=("its mappings",)) for each in range(60)]), 80)
    assert shown.count("its mappings") == 1
    assert "not seen of 60 VMs: its mappings" in shown


def test_advice_is_short_however_many_vms_need_some() -> None:
    shown = rendered(report([vm(str(each), finding=f"fault {each}") for each in range(60)]), 80)
    assert shown.count("fault") == 5
    assert "and 55 more" in shown


def test_a_host_without_vms_says_so_and_what_was_hidden() -> None:
    shown = rendered(report(unseen=("processes of other users are hidden",)), 80)
    assert "no VM runs here that can be seen" in shown
    assert "not seen: processes of other users are hidden" in shown


def test_every_field_of_the_json_is_documented() -> None:
    text = DOCUMENT.read_text()
    for name in (*VmReport.__struct_fields__, *ScanReport.__struct_fields__):
        assert f"`{name}`" in text, name


def found(*names: str) -> Found:
    return Found(tuple(FoundVm(0, name, "qemu", started_as(()), (), None, "no monitor") for name in names))


def test_the_json_of_a_vm_that_is_named_is_of_that_vm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "find_vms", lambda _folders: found("web", "db"))
    done = CliRunner().invoke(scan, ["db", "--json"], standalone_mode=False)
    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    assert printed["schema_version"] == 1
    assert [each["name"] for each in printed["vms"]] == ["db"]
    assert printed["vms"][0]["unseen"][0] == "no monitor"


def test_a_vm_that_is_not_there_is_named_beside_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "find_vms", lambda _folders: found("web", "db"))
    done = CliRunner().invoke(scan, ["nosuch"], standalone_mode=False)
    assert isinstance(done.exception, UnreachableError)
    assert str(done.exception) == "there is no VM 'nosuch' here: there is web, db"
