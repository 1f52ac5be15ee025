"""What the rig takes from Debian, unpacked, never installed: the emulated host's root and three kernels.

The root's programs also run here, by the loader and the C library that came with them.
"""

import lzma
import re
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.errors import DynmemError
from dynmem.lab import image, packages, suite

HOST_SUITE: Final = "trixie"
ROOT_PACKAGES: Final = (
    "qemu-system-x86",
    "python3",
    "busybox-static",
    "util-linux",
    "e2fsprogs",
    "lz4",
    "zstd",
)
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_MERGED: Final = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_KERNEL_IN_PACKAGE: Final = re.compile(r"\./boot/vmlinuz-(.+)")
_MODULE_IN_PACKAGE: Final = re.compile(r".*/lib/modules/[^/]+/kernel/.*/([^/]+)\.ko(\.xz)?")
_BUILTIN_IN_PACKAGE: Final = re.compile(r".*/lib/modules/[^/]+/modules\.builtin")
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")
_UNPACKERS: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}


class KernelSource(NamedTuple):
    """Where a kernel comes from.

    Attributes:
        suite: The release of Debian.
        package: The package that always depends on the newest kernel of that kind.
        modules: The modules that are wanted, apart from those that they need.
    """

    suite: str
    package: str
    modules: tuple[str, ...]


_DRIVERS: Final = ("hv_vmbus", "hv_balloon", "hv_utils", "virtio_pci", "virtio_balloon")
HOST_KERNEL: Final = KernelSource(  # only this flavour has 9p
    "trixie", "linux-image-amd64", ("virtio_blk", "crc32c_generic", "ext4", "9p", "9pnet_virtio", "kvm_amd")
)
GUEST_KERNELS: Final = {
    "6.1": KernelSource("bookworm", "linux-image-cloud-amd64", _DRIVERS),
    "6.12": KernelSource("trixie", "linux-image-cloud-amd64", _DRIVERS),
}


class Tree:
    """Packages unpacked into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, program: str) -> list[str]:
        """Return the command that starts one of its programs on this machine, up to its own options."""
        libraries = self.folder / _LIBRARIES
        loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        return [*loader, str(self.folder / program)]

    def qemu(self) -> list[str]:
        """Return the command that starts its QEMU on this machine."""
        data = [word for part in ("qemu", "seabios") for word in ("-L", f"{self.folder}/usr/share/{part}")]
        return [*self.command("usr/bin/qemu-system-x86_64"), *data]

    def python_version(self) -> str:
        """Return the version of its interpreter, as 3.13."""
        names = [path.name for path in (self.folder / "usr/bin").glob("python3.*")]
        return next(name.removeprefix("python") for name in names if name.count(".") == 1)


class Kernel(NamedTuple):
    """A kernel's files.

    Attributes:
        folder: Holds vmlinuz, as Debian ships it, and vmlinux, which is the same unpacked.
    """

    folder: Path

    @property
    def vmlinux(self) -> Path:
        """The unpacked one: nothing is unpacked in an emulated processor."""
        return self.folder / "vmlinux"

    @property
    def vmlinuz(self) -> Path:
        """The one that Debian ships."""
        return self.folder / "vmlinuz"

    def modules(self) -> list[Path]:
        """Return its modules, in the order in which they are to be loaded."""
        return sorted((self.folder / "modules").iterdir())


def fetch(folder: Path, report: Callable[[str], None]) -> None:
    """Fetch and unpack everything into `folder`: root, kernels/host, kernels/6.1 and so on.

    `report` is passed a line about each thing that was fetched. Raises ConfigError or DynmemError.
    """
    sources = {"host": HOST_KERNEL, **GUEST_KERNELS}
    tree = Tree(folder / "root")
    for name in dict.fromkeys([HOST_SUITE, *(source.suite for source in sources.values())]):
        with suite.opened(name) as opened:
            if name == HOST_SUITE:
                files = opened.with_dependencies(ROOT_PACKAGES)
                size = sum(file.stat().st_size for file in files)
                report(f"{len(files)} packages of {name} for the emulated host, {size / 1e6:.0f} MB")
                _unpack_root(files, tree.folder)
            for kernel, source in sources.items():
                if source.suite == name:
                    (file,) = opened.alone([opened.newest(source.package, "linux-image-")])
                    report(f"{file.name}, {file.stat().st_size / 1e6:.0f} MB")
                    _unpack_kernel(file, source.modules, folder / "kernels" / kernel, tree)


def _unpack_root(files: Sequence[Path], root: Path) -> None:
    root.mkdir(parents=True)
    for name, target in _MERGED.items():
        (root / target).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    for file in files:
        packages.check(packages.run(["dpkg-deb", "-x", str(file), str(root)]), f"unpacking {file.name}")


def _unpack_kernel(deb: Path, wanted: Sequence[str], folder: Path, tree: Tree) -> None:
    """Take a kernel and the modules `wanted`, with what they need, out of a package."""
    (folder / "modules").mkdir(parents=True)
    release, builtin = "", ""
    modules: dict[str, tuple[bytes, bool]] = {}
    for name, read in image.package_files(deb):
        if match := _KERNEL_IN_PACKAGE.fullmatch(name):
            release = match[1]
            (folder / "vmlinuz").write_bytes(read())
        elif match := _MODULE_IN_PACKAGE.fullmatch(name):
            modules[match[1].replace("-", "_")] = (read(), match[2] is not None)
        elif _BUILTIN_IN_PACKAGE.fullmatch(name):
            builtin = read().decode().replace("-", "_")
    lacking = [name for name in wanted if name not in modules and f"/{name}.ko\n" not in builtin]
    if not release or lacking:
        raise DynmemError(f"{deb.name} lacks {', '.join(lacking) or 'a kernel'}: is it a Debian kernel?")
    needed = [name for name in wanted if name in modules]
    for place, (name, data) in enumerate(in_order(needed, modules)):
        (folder / "modules" / f"{place:02}-{name}.ko").write_bytes(data)
    (folder / "release").write_text(release)
    (folder / "vmlinux").write_bytes(unpacked_kernel((folder / "vmlinuz").read_bytes(), tree))


def in_order(wanted: Sequence[str], modules: dict[str, tuple[bytes, bool]]) -> Iterator[tuple[str, bytes]]:
    """Yield modules after those that they need; each names these in a section of its own."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done:
            return
        done.add(name)
        data, is_compressed = modules[name]
        data = lzma.decompress(data) if is_compressed else data
        found = _DEPENDS.search(data)
        for other in found[1].decode().split(",") if found and found[1] else ():
            yield from visit(other.replace("-", "_"))
        yield name, data

    for name in wanted:
        yield from visit(name)


def unpacked_kernel(kernel: bytes, tree: Tree) -> bytes:
    """Return the ELF file inside a kernel as it is shipped (Documentation/arch/x86/boot.rst)."""
    start = ((kernel[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", kernel, 0x248)
    payload = kernel[start + offset :][:length]
    program = _UNPACKERS.get(payload[:4])
    if program is None:
        raise DynmemError(f"a kernel is packed in a way that the rig does not know: {payload[:6].hex()}")
    # What follows the packed kernel, its size, makes both programs complain after they have written all.
    result = subprocess.run(
        [*tree.command(f"usr/bin/{program}"), "-d", "-c"], input=payload, capture_output=True, check=False
    )
    if not result.stdout.startswith(b"\x7fELF"):
        raise DynmemError(f"{program} cannot unpack a kernel: {result.stderr.decode(errors='replace')}")
    return result.stdout
