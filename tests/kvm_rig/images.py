"""What boots: the emulated host's disk and initramfs, and an initramfs for each guest kernel."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.kvm_rig.debian import GUEST_KERNELS, Kernel, Tree

from dynmem.lab import packages
from dynmem.lab.initramfs import Archive, compile_static

FILES: Final = Path(__file__).parent / "files"
_BUSYBOX: Final = "usr/bin/busybox"
_MOUNTS: Final = ("dev", "proc", "project", "results", "rig", "root", "run", "sys", "tmp", "etc")
_SPARE: Final = 1.15  # of a disk, for what a file system needs itself
_DISK_MIN: Final = 64 << 20


def make(fetched: Path, folder: Path, report: Callable[[str], None]) -> None:
    """Make everything in `folder` of what was fetched: host, and guests/6.1 and so on."""
    tree = Tree(fetched / "root")
    host = folder / "host"
    host.mkdir()
    kernel = Kernel(fetched / "kernels/host")
    shutil.copy(kernel.vmlinux, host / "vmlinux")
    (host / "initrd").write_bytes(_initramfs(tree, kernel, "host_init.sh", ()))
    _make_disk(tree, host / "disk")
    report("the emulated host's disk and initramfs")
    kexec = compile_static("kexec.c", [FILES / "kexec.c"])
    for name in GUEST_KERNELS:
        guest = folder / "guests" / name
        guest.mkdir(parents=True)
        kernel = Kernel(fetched / "kernels" / name)
        for file in ("vmlinux", "vmlinuz", "release"):
            shutil.copy(kernel.folder / file, guest / file)
        initramfs = _initramfs(tree, kernel, "guest_init.sh", [("bin/kexec", kexec)])
        (guest / "initrd").write_bytes(initramfs)
        (guest / "initrd-kexec").write_bytes(initramfs + _second_kernel(kernel, initramfs))
        report(f"guest {name}: {(kernel.folder / 'release').read_text()}")


def _initramfs(tree: Tree, kernel: Kernel, init: str, programs: Sequence[tuple[str, bytes]]) -> bytes:
    """Return an initramfs: busybox, the kernel's modules, a script as the first process."""
    archive = Archive()
    for name in ("bin", "dev", "modules"):
        archive.folder(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", (tree.folder / _BUSYBOX).read_bytes(), executable=True)
    archive.file("init", (FILES / init).read_bytes(), executable=True)
    for name, data in programs:
        archive.file(name, data, executable=True)
    for path in kernel.modules():
        archive.file(f"modules/{path.name}", path.read_bytes())
    return archive.finish()


def _second_kernel(kernel: Kernel, initramfs: bytes) -> bytes:
    """Return an archive with a kernel and an initramfs for kexec; archives may follow each other."""
    archive = Archive()
    archive.folder("second")
    archive.file("second/vmlinuz", kernel.vmlinuz.read_bytes())
    archive.file("second/initrd", initramfs)
    return archive.finish()


def _make_disk(tree: Tree, disk: Path) -> None:
    """Make an ext4 file system of the root, by its own mke2fs and without mounting anything."""
    root = tree.folder
    for name in _MOUNTS:
        (root / name).mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    main = root / "usr/sbin/host_main"
    shutil.copy(FILES / "host_main.sh", main)
    main.chmod(0o755)
    for name in ("sh", "ip", "mount"):
        link = root / "usr/bin" / name
        if not link.exists():
            link.symlink_to("busybox")
    used = sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))
    size = f"{max(_DISK_MIN, int(used * _SPARE)) >> 10}k"
    command = [*tree.command("usr/sbin/mke2fs"), "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"]
    command += ["-E", "root_owner=0:0", "-d", str(root), str(disk), size]
    packages.check(packages.run(command), "making the emulated host's disk")
