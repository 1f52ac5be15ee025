"""The sdist and the wheel: what is in them, the same bytes every time, and that dynmem runs from them."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.packages.made import (
    EPOCH,
    Made,
    environment,
    lend_what_it_needs,
    output,
    pip_install,
    site_packages,
)

from dynmem import __version__
from dynmem.built import FILE, version
from scripts import dist, man


@pytest.fixture(scope="module")
def installed(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment(tmp_path_factory.mktemp("clean"))
    pip_install(python, "--no-deps", "--no-index", made.wheel)
    lend_what_it_needs(site_packages(python))
    return python


def digests(*paths: Path) -> list[tuple[str, str]]:
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


def test_two_builds_have_the_same_bytes_whoever_makes_them(made: Made, tmp_path: Path) -> None:
    code = "import pathlib; from scripts import dist; dist.python_packages(pathlib.Path({!r}), {})"
    commit = f"dist.{made.commit}" if made.commit else "None"
    subprocess.run(
        [sys.executable, "-c", code.format(str(tmp_path), commit)],
        cwd=dist.ROOT,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "Asia/Tokyo", "COLUMNS": "40", "LANG": "C"},
        umask=0o077,
        check=True,
        capture_output=True,
    )
    others = tmp_path / made.sdist.name, tmp_path / made.wheel.name
    assert digests(*others) == digests(made.sdist, made.wheel)


def test_every_time_in_them_is_the_one_that_was_asked_for(made: Made) -> None:
    with tarfile.open(made.sdist) as archive:
        assert {member.mtime for member in archive} == {EPOCH}
    with zipfile.ZipFile(made.wheel) as wheel:
        times = {datetime(*each.date_time, tzinfo=UTC).timestamp() for each in wheel.infolist()}
    assert times == {EPOCH}


def test_without_one_it_is_that_of_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert dist.epoch_of(dist.Commit("a", "a", 42)) == 42
    assert dist.epoch_of(None) == 0


def test_the_installed_command_says_what_it_was_built_from(made: Made, installed: Path) -> None:
    found = output(installed.parent / "dynmem", "--version")
    if made.commit is None:
        assert found == f"dynmem {__version__}, not from a release build: its commit is unknown\n"
    else:
        changed = ", with changes" if made.commit.is_changed else ""
        expected = f"built from commit {made.commit.number[:12]} of {made.commit.date}{changed}"
        assert found == f"dynmem {__version__}, {expected}\n"


def test_the_installed_command_scans_this_host(installed: Path) -> None:
    found = output(installed.parent / "dynmem", "scan", "--json", env={"PATH": "/usr/bin:/bin"})
    assert json.loads(found)["host_total_bytes"] > 0


def test_it_brings_its_unit_man_pages_completions_rules_and_dashboards(installed: Path) -> None:
    share = installed.parent.parent / "share"
    assert {page.name for page in (share / "man" / "man1").iterdir()} == set(man.pages())
    for shell, path in dist.COMPLETIONS.items():
        assert (share.parent / path).read_text() == output(installed.parent / "dynmem", "completion", shell)
    contrib = dist.ROOT / "contrib"
    for ours in contrib.rglob("*"):
        name = ours.relative_to(contrib)
        if ours.is_file() and name.parts[0] != "debian" and "__pycache__" not in name.parts:
            given = share / "dynmem" / name
            assert given.read_bytes() == ours.read_bytes()
            assert os.access(given, os.X_OK) == os.access(ours, os.X_OK)


def test_the_sdist_has_what_git_knows_and_nothing_else(made: Made) -> None:
    if made.commit is None:
        pytest.skip("there is no git here to ask")
    known = {
        name
        for name in dist.git("ls-tree", "-rz", "--name-only", made.commit.tree).decode().split("\0")
        if name
    }
    added = {"PKG-INFO", "src/dynmem/built_from.json", *dist.COMPLETIONS.values()}
    added |= {f"share/man/man1/{name}" for name in man.pages()}
    with tarfile.open(made.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == known | added


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_pip_installs_it_with_what_it_needs(made: Made, kind: str, tmp_path: Path) -> None:
    python = environment(tmp_path)
    pip_install(python, getattr(made, kind))
    output(python, "-m", "dynmem", "--version")
    output(python, "-c", "import dynmem.cli.vm, dynmem.cli.run, dynmem.guest, dynmem.conformance")
    assert json.loads(output(tmp_path / "bin" / "dynmem", "scan", "--json"))["host_total_bytes"] > 0


def test_a_checkout_has_no_such_file_and_says_so(tmp_path: Path) -> None:
    assert not FILE.exists()
    assert version() == version(tmp_path / "none")
    assert version().endswith("not from a release build: its commit is unknown")


@pytest.mark.parametrize("text", ["", "[]", '{"commit": 1}', "\0"])
def test_a_file_that_cannot_be_read_is_no_reason_to_fail(text: str, tmp_path: Path) -> None:
    file = tmp_path / "built_from.json"
    file.write_text(text)
    assert version(file) == f"dynmem {__version__}, from an unknown commit: {file} cannot be read"
