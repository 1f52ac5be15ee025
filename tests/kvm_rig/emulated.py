"""Emulated hosts: a Debian with KVM of its own in a QEMU without KVM, which runs pytest and ends.

One for each guest kernel, all at once: each has one processor, since two in software wait for each other.

The project is copied and compiled for it first, so whoever edits a file meanwhile changes nothing in a run.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from tests.kvm_rig import interpreter, ticks
from tests.kvm_rig.build import Rig
from tests.kvm_rig.place import KERNEL
from tests.kvm_rig.rows import is_row

from dynmem.errors import DynmemError

_ROOT: Final = Path(__file__).resolve().parents[2]
_PROJECT: Final = ("bench", "docs", "scripts", "src", "tests", "pyproject.toml")
_MEMORY_MIB: Final = 2560
_DEADLINE_S: Final = 2400.0  # for a host that hangs: the tests in it have deadlines of their own
_LINES_SHOWN: Final = 30
_LINE_MAX: Final = 1 << 20
_KERNEL_ARGUMENTS: Final = (
    "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check"
    " random.trust_cpu=on"
)


def run(rig: Rig, words: Sequence[str], kernels: Sequence[str], results: Path) -> int:
    """Run pytest with these words in a host for each guest kernel, all at once; return its exit code.

    Rows are shown as they come, the rest of what pytest writes when its host ends. Raises DynmemError when a
    host ends without an exit code.
    """
    with tempfile.TemporaryDirectory(prefix="dynmem-rig-") as folder:
        project = Path(folder)
        _copy_project(rig, project)
        hosts = [_Host(kernel, words, results / kernel) for kernel in kernels]
        asyncio.run(_all(hosts, rig, project))
    codes = {host.exit_code() for host in hosts}
    if len(codes) > 1:  # a host may have none of the tests
        codes.discard(pytest.ExitCode.NO_TESTS_COLLECTED)
    return max(codes)


async def _all(hosts: Sequence["_Host"], rig: Rig, project: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for host in hosts:
            group.create_task(host.run(rig, project))


class _Host:
    """One host, which runs the tests of one guest kernel. `results` is shared with it."""

    def __init__(self, kernel: str, words: Sequence[str], results: Path) -> None:
        self._kernel = kernel
        self._results = results
        results.mkdir()
        (results / "arguments").write_text("".join(f"{word}\n" for word in words))
        (results / "environment").write_text(f"export {KERNEL}={kernel}\n")

    async def run(self, rig: Rig, project: Path) -> None:
        """Run it to its end."""
        with (self._results / "host-log").open("wb") as log:  # what its processor lacks, at every start
            process = await asyncio.create_subprocess_exec(
                *_command(rig, project, self._results),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                limit=_LINE_MAX,
            )
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await self._show(process)
        except TimeoutError:
            pass  # its exit code is missing, which exit_code says
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _show(self, process: asyncio.subprocess.Process) -> None:
        """Print rows, and why one failed, at once; everything else at the end."""
        assert process.stdout is not None
        rest: list[bytes] = []
        async for line in process.stdout:
            if is_row(line):
                _print(line)
            else:
                rest.append(line)
        _print(f"\nthe host for {self._kernel}:\n".encode() + b"".join(rest))

    def exit_code(self) -> int:
        """Return pytest's, or raise DynmemError."""
        code = self._results / "exit"
        if not code.exists():
            raise DynmemError(
                f"the host for {self._kernel} ended before its tests did:\n{self._last_lines()}"
            )
        return int(code.read_text())

    def _last_lines(self) -> str:
        """Return the last lines of its QEMU and of its console."""
        logs = [self._results / "host-log", self._results / "host-console"]
        lines = [
            line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()
        ]
        return "\n".join(f"  {line}" for line in lines[-_LINES_SHOWN:])


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _copy_project(rig: Rig, folder: Path) -> None:
    for name in _PROJECT:
        source = _ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    interpreter.compile_folders(rig.tree, folder, [folder / "src", folder / "tests"], seen_at="/project")


def _command(rig: Rig, project: Path, results: Path) -> list[str]:
    """Return the command that starts the host. It dies with the thread that starts it.

    Its standard input must stay open: at its end QEMU closes the port "output".
    """
    host = rig.host
    command = ["setpriv", "--pdeathsig", "KILL", "--", *rig.tree.qemu(), "-name", "host"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none"]
    command += ["-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "EPYC,+svm,+npt"]
    command += ["-smp", "1", "-m", f"{_MEMORY_MIB}M"]
    command += ["-kernel", str(host / "vmlinux"), "-initrd", str(host / "initrd")]
    command += ["-append", f"{_KERNEL_ARGUMENTS} tsc_early_khz={ticks.khz()}"]
    disk = f"if=none,id=disk,format=raw,readonly=on,file={_escaped(host / 'disk')}"
    command += ["-drive", disk, "-device", "virtio-blk-pci,drive=disk"]
    shares = {
        "project": (project, ",readonly=on"),
        "rig": (rig.guests, ",readonly=on"),
        "results": (results, ""),
    }
    for tag, (path, mode) in shares.items():
        command += ["-fsdev", f"local,id={tag},security_model=none,path={_escaped(path)}{mode}"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    command += ["-chardev", "stdio,id=output,signal=off", "-device", "virtio-serial-pci"]
    command += ["-device", "virtserialport,chardev=output,name=output"]
    return [*command, "-serial", f"file:{_escaped(results / 'host-console')}"]


def _escaped(path: Path) -> str:
    """Write a path as QEMU's options want it."""
    return str(path).replace(",", ",,")
