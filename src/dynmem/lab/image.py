"""The kernel and the initramfs that every guest boots, made once and kept in a cache folder.

The kernel is Debian's cloud kernel. Its package is not installed; only the kernel and the few modules that a
guest loads are unpacked from it.
"""

import fcntl
import hashlib
import lzma
import os
import platform
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError, DynmemError
from dynmem.lab import initramfs, packages
from dynmem.limits import LAB_INITRDS_KEPT

MODULES: Final = (  # in insmod order: each needs some of the earlier ones
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_balloon",
    "virtio_mem",
)
_KERNEL_IN_PACKAGE: Final = re.compile(r"(?:\./)?boot/vmlinuz-(.+)")
_MODULE_IN_PACKAGE: Final = re.compile(
    r"(?:\./)?(?:usr/)?lib/modules/[^/]+/kernel/drivers/virtio/(\w+)\.ko(\.xz)?"
)
_BUILTIN_IN_PACKAGE: Final = re.compile(r"(?:\./)?(?:usr/)?lib/modules/[^/]+/modules\.builtin")
_SETUP: Final = "python -m dynmem.lab setup"


@dataclass(frozen=True)
class Image:
    """What a guest boots.

    Attributes:
        kernel: The kernel's file.
        initrd: The initramfs.
        release: The kernel's release, as uname -r prints it in the guest.
    """

    kernel: Path
    initrd: Path
    release: str


def cache_folder() -> Path:
    """Return the folder for kernels: ``$XDG_CACHE_HOME/dynmem``, or ``~/.cache/dynmem``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dynmem"


def find() -> Image | None:
    """Return the newest complete image made from this package's init program."""
    kernel = _newest_kernel()
    if kernel is None:
        return None
    initrd = kernel / _initrd_name()
    return Image(kernel / "vmlinuz", initrd, kernel.name) if initrd.exists() else None


def require() -> Image:
    """Return the image. Raises ConfigError, which says how to get one."""
    image = find()
    lacking = packages.missing(to_build=False)
    if image is None or lacking:
        what = " and ".join(["their kernel"] * (image is None) + list(lacking))
        raise ConfigError(f"real Linux guests are not set up ({what} missing): run {_SETUP}")
    return image


def set_up(*, deb: Path | None = None, agree: Callable[[str], bool], at_terminal: bool) -> Image:
    """Make an image and fetch what is missing; return at once if everything is there.

    `deb` is a kernel package to use instead of downloading one. `agree` is passed what would be fetched, at
    most once, and returns whether to go on. Raises ConfigError, NotPermittedError or DynmemError.
    """
    image = find()
    if image is not None and deb is None and not packages.missing(to_build=False):
        return image
    if platform.machine() != "x86_64":
        raise ConfigError(f"real Linux guests need an x86_64 host; this one is {platform.machine()}")
    with locked():
        _fetch(deb, agree=agree, at_terminal=at_terminal)
        kernel = _newest_kernel()
        assert kernel is not None
        initrd = kernel / _initrd_name()
        if not initrd.exists():
            _write_atomically(initrd, initramfs.build(initramfs.compile_init(), _modules(kernel)))
            _drop_old_initrds(kernel)
        return Image(kernel / "vmlinuz", initrd, kernel.name)


def _fetch(deb: Path | None, *, agree: Callable[[str], bool], at_terminal: bool) -> None:
    """Install the missing packages and unpack the missing kernel, after one question."""
    lacking = packages.missing(to_build=find() is None or deb is not None)
    wants_kernel = deb is None and _newest_kernel() is None
    if (lacking or wants_kernel) and not agree(_question(lacking, wants_kernel=wants_kernel)):
        raise ConfigError(f"real Linux guests are not set up: nothing was fetched ({_SETUP} asks again)")
    if lacking:
        packages.install(lacking, at_terminal=at_terminal)
    if deb is not None:
        _unpack(deb)
    elif wants_kernel:
        with tempfile.TemporaryDirectory(prefix="dynmem-kernel-") as folder:
            _unpack(packages.download_kernel(Path(folder), at_terminal=at_terminal))


def _question(lacking: tuple[str, ...], *, wants_kernel: bool) -> str:
    lines = ["Real Linux guests need these, which are missing:"]
    if lacking:
        lines.append(f"  packages, installed as root: {' '.join(packages.install_command(lacking))}")
    if wants_kernel:
        lines.append(f"  a Debian cloud kernel (27 MB), unpacked into {cache_folder()}, not installed")
    return "\n".join(lines)


def _initrd_name() -> str:
    digest = hashlib.sha256(repr(MODULES).encode())
    for name in (*initramfs.SOURCES, "initramfs.py"):
        digest.update((initramfs.FOLDER / name).read_bytes())
    return f"initrd-{digest.hexdigest()[:16]}"


def _drop_old_initrds(kernel: Path) -> None:
    """Remove all but the newest few: other checkouts of dynmem may share the cache."""
    made = sorted(kernel.glob("initrd-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in made[LAB_INITRDS_KEPT:]:
        path.unlink(missing_ok=True)


def _newest_kernel() -> Path | None:
    """Return the newest kernel folder with all modules; an older checkout may have made one with fewer."""
    kernels = [path.parent for path in (cache_folder() / "kernels").glob("*/vmlinuz")]
    complete = (each for each in kernels if all(_has_module(each, name) for name in MODULES))
    return max(complete, key=lambda folder: folder.stat().st_mtime, default=None)


def _has_module(kernel: Path, name: str) -> bool:
    return (kernel / f"{name}.ko").exists() or (kernel / f"{name}.builtin").exists()


def _modules(kernel: Path) -> list[tuple[str, bytes]]:
    paths = [kernel / f"{name}.ko" for name in MODULES]
    return [(path.name, path.read_bytes()) for path in paths if path.exists()]


def _unpack(deb: Path) -> None:
    """Unpack a package's kernel and modules into a folder named after the kernel's release.

    What such a folder has besides stays: other checkouts boot from it.
    """
    kernels = cache_folder() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=kernels) as folder:
        made = Path(folder) / "made"
        made.mkdir()
        release = _unpack_into(made, deb)
        target = kernels / release
        if target.exists():
            for path in made.iterdir():
                path.replace(target / path.name)
        else:
            made.rename(target)


def _unpack_into(folder: Path, deb: Path) -> str:
    release, builtin = "", ""
    for name, read in package_files(deb):
        if match := _KERNEL_IN_PACKAGE.fullmatch(name):
            release = match[1]
            (folder / "vmlinuz").write_bytes(read())
        elif (match := _MODULE_IN_PACKAGE.fullmatch(name)) and match[1] in MODULES:
            data = read()
            (folder / f"{match[1]}.ko").write_bytes(lzma.decompress(data) if match[2] else data)
        elif _BUILTIN_IN_PACKAGE.fullmatch(name):
            builtin = read().decode()
    for name in MODULES:
        if f"/{name}.ko\n" in builtin:
            (folder / f"{name}.builtin").touch()
    lacking = [name for name in MODULES if not _has_module(folder, name)]
    if not release or lacking:
        what = "a kernel" if not release else f"the modules {', '.join(lacking)}"
        raise DynmemError(f"{deb.name} does not hold {what}: is it a Debian kernel package?")
    return release


def package_files(deb: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield name and reader of every regular file in a package; a reader is valid until the next file."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if member.isfile():
                        file = archive.extractfile(member)
                        assert file is not None
                        yield member.name, file.read
        except tarfile.TarError as error:
            raise DynmemError(f"{deb} is not a readable Debian package: {error}") from None


@contextmanager
def locked() -> Iterator[None]:
    """Let one process at a time write to the cache: test workers start together."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_atomically(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.rename(path)
