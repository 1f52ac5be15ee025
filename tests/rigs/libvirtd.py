"""A real libvirtd of its own: a user's libvirt in a private folder, without a service, root or D-Bus.

As root it runs as another user, as libvirt's session mode wants it. Its domains are run by software
emulation, with the kernel and the load of `dynmem.lab`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.rigs.libvirts import UUID
from tests.rigs.processes import is_there
from tests.rigs.scenes import PATIENCE_S

from dynmem.lab import image, libvirt
from dynmem.lab.qemu import KERNEL_ARGUMENTS
from dynmem.lab.workload import Load

_NOBODY: Final = 65534
_QEMU_CONF: Final = """
stdio_handler = "file"
security_driver = "none"
namespaces = []
cgroup_controllers = []
"""
# The parent of libvirtd and, when that is gone, of its QEMUs: it waits for those that end, as init does. It
# starts a libvirtd for each line, and ends them all when whoever runs it has gone.
_KEEPER: Final = """
import ctypes, os, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, reap)
for _ in sys.stdin:
    other = dict(user=65534, group=65534, extra_groups=[]) if os.geteuid() == 0 else {}
    subprocess.Popen([sys.argv[1]], **other)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
while True:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        for pid in map(int, file.read().split()):
            os.kill(pid, signal.SIGKILL)
    try:
        os.wait()
    except ChildProcessError:
        break
"""
_DOMAIN: Final = """
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <metadata>{policy}</metadata>
  <memory unit='MiB'>{mib}</memory><vcpu>1</vcpu>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{folder}/vmlinuz</kernel><initrd>{folder}/initrd</initrd><cmdline>{arguments}</cmdline>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{folder}/serial'/></serial>
    <memballoon model='virtio' autodeflate='on'/>
  </devices>
</domain>"""


def require() -> str:
    """The path of libvirtd; without it, or the module, the test is skipped, or in the gate fails."""
    found = libvirt.daemon() if libvirt.has_module() else None
    if found is None and "DYNMEM_GATE" not in os.environ:
        pytest.skip("libvirt is not set up: run scripts/setup-libvirt")
    assert found is not None
    return found


class Libvirtd:
    """One that runs; `kill` and `start` as often as the test likes."""

    def __init__(self, program: str, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "run" / "libvirt" / "libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        self._program = program
        self._keeper: subprocess.Popen[bytes] | None = None
        for place in ("run", "config/libvirt", "cache", "data"):
            (folder / place).mkdir(parents=True)
        (folder / "config" / "libvirt" / "qemu.conf").write_text(_QEMU_CONF)
        found = image.require()
        shutil.copy(found.kernel, folder / "vmlinuz")
        shutil.copy(found.initrd, folder / "initrd")
        if os.geteuid() == 0:
            for each in (folder, *folder.rglob("*")):
                os.chown(each, _NOBODY, _NOBODY)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        if self._keeper is None:
            self._keeper = self._kept()
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(b"\n")
        self._keeper.stdin.flush()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(Exception):
                self.connect().close()
                return
            assert self._keeper.poll() is None
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def _kept(self) -> subprocess.Popen[bytes]:
        places = {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache"}
        environment = {name: str(self.folder / place) for name, place in places.items()}
        environment |= {"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder / "data")}
        environment |= {"PATH": os.environ["PATH"], "LIBVIRT_LOG_OUTPUTS": f"3:file:{self.folder}/log"}
        return subprocess.Popen(
            [sys.executable, "-c", _KEEPER, self._program],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return int((self.folder / "run" / "libvirt" / "libvirtd.pid").read_text())

    def kill(self) -> None:
        """End it without a word; its domains go on."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while is_there(pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def connect(self) -> Any:
        """A connection by libvirt's own module."""
        module: Any = __import__("libvirt")
        module.registerErrorHandler(lambda *_: None, None)
        return module.open(self.uri)

    def domain(
        self, name: str = "web", uuid: str = UUID, *, policy: str = "", mib: int = 192, load: Load
    ) -> str:
        """The definition of a domain with the lab's guest."""
        return _DOMAIN.format(
            name=name,
            uuid=uuid,
            policy=policy,
            mib=mib,
            folder=self.folder,
            arguments=f"{KERNEL_ARGUMENTS} dynmem.load={load.argument()}",
        )

    def end(self) -> None:
        """End it and every QEMU that it has started."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(PATIENCE_S)


@contextlib.contextmanager
def libvirtd() -> Iterator[Libvirtd]:
    """One that listens, and is gone afterwards with all that it has started."""
    program = require()
    with tempfile.TemporaryDirectory(prefix="lv-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        running = Libvirtd(program, folder)
        try:
            running.start()
            yield running
        finally:
            running.end()
