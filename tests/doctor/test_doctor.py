"""What `dynmem doctor` says of a host, whatever that lacks, and how it is shown."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.rigs.own_process import open_descriptors

from dynmem.cli.doctor import as_values, rendered
from dynmem.doctor import guests, memory
from dynmem.doctor.examination import worst
from dynmem.errors import ConfigError, DynmemError
from dynmem.findings import Finding, Verdict
from dynmem.memory import abilities

FINE = Finding("a", Verdict.OK, "fine")
LESS = Finding("the second", Verdict.LIMITED, "works with less", "do this and that")
NONE = Finding("c", Verdict.MISSING, "not there", "get it")


def test_the_worst_finding_is_the_verdict() -> None:
    assert worst([FINE, FINE]) is Verdict.OK
    assert worst([LESS, FINE]) is Verdict.LIMITED
    assert worst([LESS, NONE, FINE]) is Verdict.MISSING


def test_a_table_has_what_to_do_below_each_finding_and_fits_the_terminal() -> None:
    assert rendered([FINE, LESS, NONE]).splitlines() == [
        "ok       a           fine",
        "limited  the second  works with less",
        "                     -> do this and that",
        "missing  c           not there",
        "                     -> get it",
    ]
    long = Finding("a", Verdict.OK, "word " * 40)
    assert max(map(len, rendered([long, LESS], 80).splitlines())) <= 80


def test_json_has_a_schema_version_and_words_for_verdicts() -> None:
    assert as_values([FINE, NONE], Verdict.MISSING) == {
        "schema_version": 1,
        "verdict": "missing",
        "findings": [
            {"subject": "a", "verdict": "ok", "detail": "fine", "step": ""},
            {"subject": "c", "verdict": "missing", "detail": "not there", "step": "get it"},
        ],
    }


def test_the_command_examines_this_host_and_its_exit_code_says_whether_something_is_missing() -> None:
    command = [sys.executable, "-m", "dynmem", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    verdicts = {finding["verdict"] for finding in found["findings"]}
    assert (done.returncode, found["verdict"] == "missing") == ("missing" in verdicts, "missing" in verdicts)
    subjects = [finding["subject"] for finding in found["findings"]]
    assert len(set(subjects)) == len(subjects)
    assert {"processor", "user namespaces", "memory files", "process_madvise", "/dev/kvm"} <= set(subjects)
    assert {"kernel", "memory cgroups", "processes of VMs", "monitors", "QEMU's hv-balloon"} <= set(subjects)


# guests


def test_only_linux_on_x86_64_runs_machines() -> None:
    assert guests.processor("linux", "x86_64").verdict is Verdict.OK
    assert guests.processor("linux", "aarch64").verdict is Verdict.MISSING
    assert guests.processor("darwin", "x86_64").verdict is Verdict.MISSING


def test_few_descriptors_are_a_limit() -> None:
    assert guests.descriptors(-1).verdict is Verdict.OK  # RLIM_INFINITY
    assert guests.descriptors(1 << 20).verdict is Verdict.OK
    few = guests.descriptors(1024)
    assert few.verdict is Verdict.LIMITED
    assert "a process may open 1024, the largest machine opens 1408" in few.detail


def refusing(*means: str) -> Callable[[str], None]:
    def trial(name: str) -> None:
        if name in means:
            raise ConfigError(f"{name}: Operation not permitted")

    return trial


def test_a_guest_without_namespaces_is_a_limit_and_the_setting_that_refuses_them_is_named(
    tmp_path: Path,
) -> None:
    assert guests.namespaces(refusing()).verdict is Verdict.OK
    for name, value, step in [
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "an AppArmor profile"),
    ]:
        setting = tmp_path / name
        setting.parent.mkdir(exist_ok=True)
        setting.write_text(f"{value}\n")
        rights = guests.namespaces(refusing("user"), tmp_path)
        assert rights.verdict is Verdict.LIMITED
        assert (
            rights.detail == "the embedded guest keeps the rights of this user: user: Operation not permitted"
        )
        assert step in rights.step
        setting.write_text("15000\n")
    outlives = guests.namespaces(refusing("user", "pid"), tmp_path)
    assert outlives.detail.startswith("an embedded guest that is hostile could outlive its machine: user:")
    assert "sandbox" in outlives.step
    none = guests.namespaces(refusing("user", "pid", "reaper"), tmp_path)
    assert none.verdict is Verdict.MISSING


@pytest.mark.parametrize("means", ["user", "pid", "reaper"])
def test_a_trial_of_what_keeps_a_guest_leaves_no_descriptor_and_no_line_in_a_log(
    means: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = open_descriptors()
    with suppress(DynmemError):  # refused here
        guests._start_and_end(means)
    assert caplog.text == ""
    assert len(open_descriptors()) == len(before)


# memory


def test_memory_files_that_a_sandbox_refuses_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.memory_files().verdict is Verdict.OK

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    found = memory.memory_files()
    assert found.verdict is Verdict.MISSING
    assert "memfd_create fails: Operation not permitted" in found.detail


def test_a_small_tmpfs_and_none_are_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.tmpfs(tmp_path / "none").verdict is Verdict.LIMITED
    sizes = {"f_frsize": 4096, "f_blocks": 1 << 14, "f_bavail": 1 << 13}
    monkeypatch.setattr(os, "statvfs", lambda _: type("Result", (), sizes))
    small = memory.tmpfs(tmp_path)
    assert small.verdict is Verdict.LIMITED
    assert "32 MiB free of 64 MiB" in small.detail
    assert "--shm-size" in small.step
    sizes["f_blocks"] = 1 << 20
    assert memory.tmpfs(tmp_path).verdict is Verdict.OK


def test_huge_pages_are_counted_where_there_are_any(tmp_path: Path) -> None:
    assert memory.huge_pages(tmp_path / "none").verdict is Verdict.LIMITED
    for size, total, free in [(2048, 0, 0), (1048576, 0, 0)]:
        pool = tmp_path / f"hugepages-{size}kB"
        pool.mkdir()
        (pool / "nr_hugepages").write_text(f"{total}\n")
        (pool / "free_hugepages").write_text(f"{free}\n")
    none = memory.huge_pages(tmp_path)
    assert (none.verdict, none.step) == (
        Verdict.OK,
        f"as root: echo 512 > {tmp_path}/hugepages-2048kB/nr_hugepages",
    )
    (tmp_path / "hugepages-2048kB" / "nr_hugepages").write_text("64\n")
    (tmp_path / "hugepages-2048kB" / "free_hugepages").write_text("60\n")
    assert memory.huge_pages(tmp_path).detail == "reserved: 64 of 2 MiB, 60 free"


def test_a_kernel_without_batched_discards_is_a_limit() -> None:
    assert memory.batched_discards(abilities.NONE).verdict is Verdict.LIMITED
    all_of_them = abilities.Abilities(1, batched_dontneed=True, batched_remove=True)
    assert memory.batched_discards(all_of_them).verdict is Verdict.OK


def test_a_kernel_without_figures_of_pressure_is_a_limit(tmp_path: Path) -> None:
    without = memory.pressure(tmp_path / "none")
    assert without.verdict is Verdict.LIMITED
    assert without.step == "boot this host with psi=1"
    (tmp_path / "memory").write_text("some avg10=0.00\n")
    assert memory.pressure(tmp_path / "memory").verdict is Verdict.OK
