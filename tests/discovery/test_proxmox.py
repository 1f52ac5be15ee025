"""What Proxmox's files say, as Proxmox writes them and otherwise."""

import os
from pathlib import Path

import pytest

from dynmem.discovery import proxmox
from dynmem.discovery.proxmox import ProxmoxLock, ProxmoxVm, proxmox_vm, read_proxmox

MIB = 1 << 20
FILE = """#priority%3A high
balloon: 1024
boot: order=scsi0
memory: 4096
name: shop
shares: 2000
lock: backup
tags: dynmem-high;web
net0: virtio=BC:24:11:00:00:01,bridge=vmbr0

[before]
memory: 512
name: old
"""


def test_a_file_is_read_up_to_its_first_snapshot(tmp_path: Path) -> None:
    (tmp_path / "100.conf").write_text(FILE)
    for name in ("notes.txt", "0.conf", "1234567890.conf"):
        (tmp_path / name).write_text("memory: 1")
    expected = ProxmoxVm(100, "shop", 4096 * MIB, 1024 * MIB, 2000, "backup", 2000, is_moved=True)
    assert read_proxmox(tmp_path) == ({100: expected}, "")


@pytest.mark.parametrize(
    ("text", "maximum", "minimum", "shares"),
    [
        ("memory: current=2048\n", 2048 * MIB, 2048 * MIB, 1000),
        ("memory: 2048\nballoon: 0\nshares: 0\n", 2048 * MIB, None, 0),
        ("memory: -1\nballoon: x\nshares: \n", 512 * MIB, 512 * MIB, 1000),
        ("", 512 * MIB, 512 * MIB, 1000),
        ("memory: " + "9" * 100_000, 512 * MIB, 512 * MIB, 1000),
    ],
)
def test_what_is_absent_or_no_number_is_what_proxmox_takes_it_for(
    text: str, maximum: int, minimum: int | None, shares: int
) -> None:
    vm = proxmox_vm(7, text)
    assert (vm.maximum_bytes, vm.minimum_bytes, vm.shares) == (maximum, minimum, shares)


def test_names_that_cannot_be_shown_are_none() -> None:
    assert proxmox_vm(7, "name: a\x1b[2J\nlock: " + "x" * 65).name == ""
    assert proxmox_vm(7, "name: a\x1b[2J\nlock: " + "x" * 65).lock == "unknown"  # which is a lock


def test_a_host_without_proxmox_has_no_files_and_no_problem(tmp_path: Path) -> None:
    assert read_proxmox(tmp_path / "qemu-server") == ({}, "")


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "100.conf").mkdir()
    (tmp_path / "101.conf").write_text(FILE)
    vms, problem = read_proxmox(tmp_path)
    assert list(vms) == [101]
    assert "100.conf cannot be read" in problem


def test_neither_more_files_than_vms_are_looked_at_nor_more_of_one_than_proxmox_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100, 104):
        (tmp_path / f"{number}.conf").write_text("memory: 1024\nlock: backup\n")
    monkeypatch.setattr(proxmox, "SCAN_VMS_MAX", 3)
    monkeypatch.setattr(proxmox, "SCAN_PROXMOX_BYTES_MAX", len("memory: 1024\n"))
    vms, _ = read_proxmox(tmp_path)
    assert sorted(vms) == [100, 101, 102]
    assert {(vm.maximum_bytes, vm.lock) for vm in vms.values()} == {(1024 * MIB, "")}


def test_a_file_that_goes_while_it_is_looked_for_is_no_vm_and_no_problem(tmp_path: Path) -> None:
    (tmp_path / "100.conf").symlink_to(tmp_path / "gone")
    (tmp_path / "101.conf").write_text(FILE)
    vms, problem = read_proxmox(tmp_path)
    assert (list(vms), problem) == ([101], "")


def folder_of(root: Path) -> Path:
    folder = root / "pve" / "qemu-server"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("now_s", [51, 40])  # or by the clock of a node that is ahead
def test_a_lock_is_seen_when_its_file_changes_also_within_the_second_that_it_is_dated_with(
    now_s: int, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    file, lock, second = folder / "100.conf", ProxmoxLock(100, folder), 10**9
    for text, reason in [
        ("lock: create\nmemory: 512\n", "Proxmox has locked it (create)"),
        ("lock: backup\nmemory: 512\n", "Proxmox has locked it (backup)"),  # as long as the one before
        ("memory: 512\n", ""),
        ("memory: 512\n\n[before]\nlock: snapshot\n", ""),  # a snapshot is not what runs
        ("lock: " + "x" * 70, "Proxmox has locked it (unknown)"),
    ]:
        file.write_text(text)
        os.utime(file, ns=(50 * second, 50 * second))
        assert lock.read(now_s * second) == reason


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    file, lock = folder / "100.conf", ProxmoxLock(100, folder)
    file.write_text("lock: backup\n")
    os.utime(file, ns=(5, 5))
    assert lock.read() == "Proxmox has locked it (backup)"
    file.write_text("lock: create\n")
    os.utime(file, ns=(5, 5))  # a change that nothing shows
    assert lock.read() == "Proxmox has locked it (backup)"
    other = folder / "other"
    other.write_text("lock: create\n")
    os.utime(other, ns=(5, 5))
    other.rename(file)  # another file in its place, as long and as old
    assert lock.read() == "Proxmox has locked it (create)"


def test_what_cannot_be_known_of_a_lock_is_a_reason_to_leave_the_vm_alone(tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / "qemu-server"
    assert ProxmoxLock(100, nowhere).read() == ""  # no Proxmox
    folder = folder_of(tmp_path)
    lock = ProxmoxLock(100, folder)
    assert "has moved or removed it" in lock.read()
    (folder / "100.conf").mkdir()
    assert "whether Proxmox has locked it is not known" in lock.read()
    (folder / "100.conf").rmdir()
    folder.rmdir()  # the host's, while its file system is not mounted
    assert "whether Proxmox has locked it is not known" in lock.read()
