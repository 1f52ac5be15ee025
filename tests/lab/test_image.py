"""Finding and making the guests' image, with a package built here and programs of our own in place of apt."""

import lzma
import os
import subprocess
from pathlib import Path

import pytest

from dynmem.errors import ConfigError, DynmemError, NotPermittedError
from dynmem.lab import image, packages

RELEASE = "6.99.0-1-cloud-amd64"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def agree(_: str) -> bool:
    return True


def never(question: str) -> bool:
    raise AssertionError(f"asked: {question}")


def make_package(folder: Path, *, without: str = "", builtin: str = "", kernel: bool = True) -> Path:
    """A kernel package as Debian lays it out, with contents that only have to be told apart."""
    root = folder / "root"
    modules = root / "lib/modules" / RELEASE / "kernel/drivers/virtio"
    for path in (modules, root / "boot", root / "DEBIAN", modules.parent / "net"):
        path.mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: k\nVersion: 1\nArchitecture: amd64\nMaintainer: x\nDescription: y\n"
    )
    (root / "boot/config").write_text("CONFIG_X=y\n")
    if kernel:
        (root / f"boot/vmlinuz-{RELEASE}").write_bytes(b"kernel")
    for name in (*image.MODULES, "virtio_input"):
        if name == "virtio_ring":
            (modules / f"{name}.ko.xz").write_bytes(lzma.compress(name.encode()))
        elif name != without:
            (modules / f"{name}.ko").write_bytes(name.encode())
    (modules.parent / "net/virtio.ko").write_bytes(b"not this one")
    (modules.parents[2] / "modules.builtin").write_text(f"kernel/drivers/virtio/{builtin}.ko\n")
    deb = folder / "kernel.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--build", str(root), str(deb)], check=True, capture_output=True)
    return deb


def put_program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_what_a_guest_boots_is_taken_out_of_the_package_and_found_again(tmp_path: Path) -> None:
    made = image.set_up(deb=make_package(tmp_path), agree=never, at_terminal=False)
    assert made.release == RELEASE
    assert made.kernel.read_bytes() == b"kernel"
    assert {path.name: path.read_bytes() for path in made.kernel.parent.glob("*.ko")} == {
        f"{name}.ko": name.encode() for name in image.MODULES
    }
    archive = made.initrd.read_bytes()
    places = [
        archive.index(f"modules/{place:02}-{name}.ko".encode()) for place, name in enumerate(image.MODULES)
    ]
    assert places == sorted(places)
    assert image.find() == made
    assert image.set_up(agree=never, at_terminal=False) == made


def test_an_image_of_another_version_of_init_is_made_again(tmp_path: Path) -> None:
    made = image.set_up(deb=make_package(tmp_path), agree=never, at_terminal=False)
    made.initrd.rename(made.initrd.with_name("initrd-0123456789abcdef"))
    assert image.find() is None
    assert image.set_up(agree=never, at_terminal=False) == made
    assert made.initrd.exists()


def test_initramfs_files_of_old_versions_do_not_pile_up(tmp_path: Path) -> None:
    made = image.set_up(deb=make_package(tmp_path), agree=never, at_terminal=False)
    for number in range(9):
        (made.kernel.parent / f"initrd-{number}").write_bytes(b"old")
    made.initrd.unlink()
    image.set_up(agree=never, at_terminal=False)
    assert made.initrd.exists()
    assert len(list(made.kernel.parent.glob("initrd-*"))) == 4


def test_a_module_that_is_built_in_need_not_be_in_the_package(tmp_path: Path) -> None:
    deb = make_package(tmp_path, without="virtio_balloon", builtin="virtio_balloon")
    made = image.set_up(deb=deb, agree=never, at_terminal=False)
    assert b"virtio_balloon.ko" not in made.initrd.read_bytes()


def test_a_kernel_that_an_older_checkout_unpacked_is_completed_and_what_that_boots_from_stays(
    tmp_path: Path,
) -> None:
    deb = make_package(tmp_path)
    made = image.set_up(deb=deb, agree=never, at_terminal=False)
    older = made.initrd.rename(made.initrd.with_name("initrd-older"))
    (made.kernel.parent / "virtio_mem.ko").unlink()
    assert image.find() is None
    assert image.set_up(deb=deb, agree=never, at_terminal=False) == made
    assert b"virtio_mem.ko" in made.initrd.read_bytes()
    assert older.exists()


def test_a_newer_kernel_without_all_modules_is_passed_over(tmp_path: Path) -> None:
    made = image.set_up(deb=make_package(tmp_path), agree=never, at_terminal=False)
    newer = made.kernel.parent.with_name("9.9.9")
    newer.mkdir()
    (newer / "vmlinuz").touch()
    os.utime(newer, (1 << 32, 1 << 32))
    assert image.find() == made


@pytest.mark.parametrize(
    ("flaws", "words"),
    [({"without": "virtio_pci"}, "modules virtio_pci"), ({"kernel": False}, "does not hold a kernel")],
)
def test_a_package_without_what_is_needed_is_refused_and_leaves_nothing(
    tmp_path: Path, flaws: dict[str, object], words: str
) -> None:
    deb = make_package(tmp_path, **flaws)  # type: ignore[arg-type]
    with pytest.raises(DynmemError, match=words):
        image.set_up(deb=deb, agree=never, at_terminal=False)
    assert image.find() is None
    assert list((image.cache_folder() / "kernels").iterdir()) == []


def test_a_file_that_is_no_package_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "photo.deb").write_bytes(b"not a package")
    with pytest.raises(DynmemError, match=r"photo\.deb"):
        image.set_up(deb=tmp_path / "photo.deb", agree=never, at_terminal=False)


def test_without_an_image_the_sentence_says_what_is_missing_and_what_to_run() -> None:
    with pytest.raises(ConfigError, match=r"their kernel missing.*python -m dynmem\.lab setup"):
        image.require()


def test_a_no_is_taken_for_an_answer_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path, "apt-get", f"touch {tmp_path}/called")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    questions: list[str] = []

    def refuse(question: str) -> bool:
        questions.append(question)
        return False

    with pytest.raises(ConfigError, match="nothing was fetched"):
        image.set_up(agree=refuse, at_terminal=True)
    assert len(questions) == 1
    assert "cloud kernel" in questions[0]
    assert not (tmp_path / "called").exists()


def test_on_a_bare_machine_one_question_names_every_package_and_apt_is_asked_for_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path, "apt-get", f'echo "$@" >> {tmp_path}/calls; exit 100')
    monkeypatch.setenv("PATH", str(tmp_path))
    questions: list[str] = []

    def note(question: str) -> bool:
        questions.append(question)
        return True

    with pytest.raises((DynmemError, NotPermittedError)):
        image.set_up(agree=note, at_terminal=False)
    assert len(questions) == 1
    assert "qemu-system-x86 gcc dpkg" in questions[0]


def test_old_package_lists_are_fetched_and_the_installation_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(
        tmp_path,
        "apt-get",
        f'echo "$@" >> {tmp_path}/calls; [ "$1" = update ] && > {tmp_path}/lists; [ -e {tmp_path}/lists ]',
    )
    put_program(tmp_path, "sudo", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    packages.install(["gcc", "libc6-dev"], at_terminal=False)
    assert [call.split()[0] for call in (tmp_path / "calls").read_text().splitlines()] == [
        "install",
        "update",
        "install",
    ]


def test_what_apt_says_when_it_fails_is_in_the_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path, "apt-get", '[ "$1" = update ] || { echo "E: no space left" >&2; exit 100; }')
    put_program(tmp_path, "sudo", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DynmemError, match=r"installing gcc failed with exit code 100: E: no space left"):
        packages.install(["gcc"], at_terminal=False)
