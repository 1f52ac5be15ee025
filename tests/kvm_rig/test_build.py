"""The rig in the cache: when what is made again, and what is never left half made."""

import os
import shutil
from pathlib import Path

import pytest
from tests.kvm_rig import build

from dynmem.errors import ConfigError, DynmemError

HERE = Path(__file__).parent


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files that make the rig, for changing them."""
    copy = tmp_path / "kvm_rig"
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "_HERE", copy)
    return copy


@pytest.mark.parametrize("name", ["images.py", "files/guest_init.sh", "files/host_main.sh", "files/kexec.c"])
def test_what_makes_the_images_makes_them_again_of_what_is_there(copied: Path, name: str) -> None:
    fetched, made = build.folders()
    (copied / name).write_text("changed")
    assert build.folders()[0] == fetched
    assert build.folders()[1] != made


@pytest.mark.parametrize("name", ["debian.py", "interpreter.py"])
def test_what_fetches_has_everything_fetched_and_made_again(copied: Path, name: str) -> None:
    fetched, made = build.folders()
    (copied / name).write_text("changed")
    assert build.folders()[0] != fetched
    assert build.folders()[1] != made


def test_every_file_that_goes_into_a_guest_or_the_host_is_among_those() -> None:
    files = {str(path.relative_to(HERE)) for path in (HERE / "files").iterdir()}
    assert files <= set(build.MAKING)


def test_who_declines_has_nothing_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[str] = []

    def decline(question: str) -> bool:
        asked.append(question)
        return False

    with pytest.raises(ConfigError, match="nothing was fetched"):
        build.set_up(agree=decline, report=asked.append, at_terminal=False)
    assert len(asked) == 1
    assert str(tmp_path) in asked[0]
    assert [path.name for path in (tmp_path / "dynmem").iterdir()] == ["lock"]
    assert build.find() is None


def test_a_folder_that_could_not_be_completed_does_not_appear(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise DynmemError("the network is gone")

    with pytest.raises(DynmemError):
        build.complete(tmp_path / "rig" / "made-1", fail)
    assert list((tmp_path / "rig").iterdir()) == []


def test_what_a_run_uses_is_not_dropped_and_what_is_old_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for folder in build.folders():
        folder.mkdir(parents=True)
    place = folder.parent
    with build.used() as rig:
        for number in range(9):
            (place / f"made-{number}").mkdir()
        os.utime(rig.host.parent, (0, 0))
        build.drop_old(place, "made")
        assert rig.host.parent.exists()
        assert len(list(place.glob("made-*"))) == 4
    os.utime(rig.host.parent, (0, 0))
    build.drop_old(place, "made")
    assert not rig.host.parent.exists()


def test_a_run_without_a_rig_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="scripts/setup-kvm-rig"), build.used():
        raise AssertionError
