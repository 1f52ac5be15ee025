"""Setting up QEMU 10: with what cannot be fetched, what nobody signed, and what is already there."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.rigs.unpacked import unpacked_qemu

from dynmem.errors import DynmemError
from dynmem.lab import qemu10, suite

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/setup-qemu10"


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with an empty cache and an apt that never gets anything."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apt-get").write_text("#!/bin/sh\necho 'E: no route to the archive' >&2\nexit 100\n")
    (programs / "apt-get").chmod(0o755)
    for name in ("sh", "dirname"):
        (programs / name).symlink_to(f"/bin/{name}")
    environment = {name: value for name, value in os.environ.items() if name != "DYNMEM_GATE"}
    return environment | {"PATH": str(programs), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def run(environment: dict[str, str], *options: str) -> tuple[int, str]:
    result = subprocess.run(
        [SCRIPT, *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stderr


def test_without_a_network_the_script_says_why_and_goes_on(offline: dict[str, str], tmp_path: Path) -> None:
    code, said = run(offline)
    assert code == 0
    assert "E: no route to the archive" in said
    assert "the tests that compare with it are skipped" in said
    assert not list((tmp_path / "cache/dynmem").glob("qemu10/*"))


def test_in_the_gate_what_cannot_be_fetched_is_a_failure(offline: dict[str, str]) -> None:
    code, said = run(offline | {"DYNMEM_GATE": "1"})
    assert code == 1
    assert "E: no route to the archive" in said


def test_check_fetches_nothing(offline: dict[str, str]) -> None:
    code, said = run(offline | {"DYNMEM_GATE": "1"}, "--check")
    assert code == 1
    assert "QEMU 10 is not set up" in said
    assert "apt" not in said


@pytest.fixture
def local_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive in a folder that apt on this machine believes to be its own, with an index nobody signed."""
    archive = tmp_path / "archive"
    for codename in (suite.own_codename(), "next"):
        release = archive / "dists" / codename
        release.mkdir(parents=True)
        (release / "Release").write_text(f"Suite: {codename}\nCodename: {codename}\nComponents: main\n")
    tmp_path.chmod(0o755)
    (tmp_path / "sources.list").write_text(f"deb file:{archive} {suite.own_codename()} main\n")
    configuration = f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
    (tmp_path / "apt.conf").write_text(configuration)
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return archive


@pytest.mark.qemu
def test_the_other_release_is_taken_from_where_this_machine_gets_its_own(local_archive: Path) -> None:
    assert suite.archives() == [f"file:{local_archive}/"]


@pytest.mark.qemu
def test_an_index_that_the_archive_did_not_sign_is_refused(local_archive: Path) -> None:
    with (
        pytest.raises(DynmemError, match=r"(?s)fetching the package index of next failed.*not signed"),
        suite.downloaded("next", ["anything"]),
    ):
        raise AssertionError("it was taken")


@pytest.mark.qemu
def test_an_unpacked_qemu_10_runs_with_the_libraries_it_came_with() -> None:
    shown = subprocess.run(
        [*unpacked_qemu().command(), "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("QEMU emulator version 10.")


def test_what_is_there_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dynmem/qemu10/10.0.0/usr/bin/qemu-system-x86_64"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")

    def refuse(question: str) -> bool:
        raise AssertionError(question)

    assert qemu10.set_up(agree=refuse).folder == tmp_path / "dynmem/qemu10/10.0.0"
