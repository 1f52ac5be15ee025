"""The emulated host: a Debian with KVM of its own in a QEMU without KVM, which runs pytest and ends.

The project is copied and compiled for it first, so whoever edits a file meanwhile changes nothing in a run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.kvm_rig import interpreter
from tests.kvm_rig.build import Rig

from dynmem.errors import DynmemError

_ROOT: Final = Path(__file__).resolve().parents[2]
_PROJECT: Final = ("bench", "docs", "src", "tests", "pyproject.toml")
_MEMORY_MIB: Final = 2560
_DEADLINE_S: Final = 2400.0  # for a host that hangs: the tests in it have deadlines of their own
_LINES_SHOWN: Final = 30
_KERNEL_ARGUMENTS: Final = (
    "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check"
    " random.trust_cpu=on"
)


def run(rig: Rig, words: Sequence[str], results: Path) -> int:
    """Run pytest with these words, show its output as it comes, and return its exit code.

    Raises DynmemError when the host ends without one.
    """
    (results / "arguments").write_text("".join(f"{word}\n" for word in words))
    with tempfile.TemporaryDirectory(prefix="dynmem-rig-") as folder:
        project = Path(folder)
        _copy_project(rig, project)
        command = _command(rig, project, results)
        with (
            (results / "host-log").open("wb") as log,  # what its processor lacks, at every start
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            ) as process,
        ):
            watchdog = threading.Timer(_DEADLINE_S, process.kill)
            watchdog.start()
            try:
                _show(process)
            finally:
                watchdog.cancel()
                process.kill()
    code = results / "exit"
    if not code.exists():
        raise DynmemError(f"the emulated host ended before its tests did:\n{_last_lines(results)}")
    return int(code.read_text())


def _show(process: subprocess.Popen[bytes]) -> None:
    """Copy what the tests write until the host has ended."""
    assert process.stdout is not None
    while data := os.read(process.stdout.fileno(), 1 << 16):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    process.wait()


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
    command += [
        "-kernel",
        str(host / "vmlinux"),
        "-initrd",
        str(host / "initrd"),
        "-append",
        _KERNEL_ARGUMENTS,
    ]
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


def _last_lines(results: Path) -> str:
    """Return the last lines of its QEMU and of its console."""
    logs = [results / "host-log", results / "host-console"]
    lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
    return "\n".join(f"  {line}" for line in lines[-_LINES_SHOWN:])
