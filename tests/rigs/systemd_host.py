"""A systemd of its own: the first process of new namespaces, over this host's files, which it cannot change.

What it writes to /etc, /var and /usr/bin is in memory and ends with it, /run and /tmp are its own, so are its
processes, its network and its cgroups. It knows only the units that it is given.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.rigs.scenes import PATIENCE_S

SYSTEMD: Final = Path("/lib/systemd/systemd")
CGROUPS: Final = (
    Path("/sys/fs/cgroup/unified"),
    Path("/sys/fs/cgroup"),
)  # of version 2: beside version 1, or alone
TARGETS: Final = (
    "default",
    "basic",
    "sysinit",
    "shutdown",
    "umount",
    "final",
    "exit",
    "multi-user",
    "local-fs",
)
BEGIN: Final = """
set -e
mount -t tmpfs tmpfs /mnt
for folder in etc var usr/bin; do
    name=$(echo $folder | tr / -)
    mkdir -p /mnt/$name.upper /mnt/$name.work
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/mnt/$name.upper,workdir=/mnt/$name.work /$folder
done
mkdir /mnt/units /mnt/run
cp "$1"/* /mnt/units
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock /run/units
cp /mnt/units/* /run/units
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/here
mount -t cgroup2 none /sys/fs/cgroup/here
mount --move /sys/fs/cgroup/here /sys/fs/cgroup
: > /etc/machine-id
exec env -i container=lxc SYSTEMD_UNIT_PATH=/run/units PATH=/usr/bin:/bin:/usr/sbin:/sbin \\
    "$2" --system --log-target=console --log-level=warning --show-status=0
"""


def group_root() -> Path | None:
    """Where cgroups of version 2 are on this host."""
    return next((each for each in CGROUPS if (each / "cgroup.controllers").exists()), None)


def is_possible() -> bool:
    """Whether one can be started here."""
    programs = all(shutil.which(each) for each in ("unshare", "nsenter", "systemctl", "setpriv"))
    return os.geteuid() == 0 and SYSTEMD.exists() and programs and group_root() is not None


needs_systemd: Final = pytest.mark.skipif(
    not is_possible(), reason="it takes root, systemd and cgroups of version 2"
)


class SystemdHost:
    """The running one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a shell script in it."""
        command = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-n", "-C", "sh", "-c", script]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)

    def says(self, script: str) -> str:
        """Run a script that succeeds, and return what it prints."""
        found = self.run(script)
        assert found.returncode == 0, (script, found.stdout, found.stderr)
        return found.stdout.strip()

    def until(self, script: str, wanted: str) -> None:
        """Wait until a script prints something with these words in it."""
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in (found := self.run(script).stdout):
            assert time.monotonic() < deadline, f"{script}: {found}"
            time.sleep(0.1)


def _child(pid: int) -> int:
    """Return the first child of a process; 0: it has none yet."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    except (OSError, IndexError):
        return 0


@contextmanager
def systemd_host(folder: Path, units: Mapping[str, str]) -> Iterator[SystemdHost]:
    """Run one with these units, by their names, for as long as the block lasts."""
    root = group_root()
    assert root is not None
    group = root / f"systemd-{os.getpid()}"
    (folder / "units").mkdir()
    for name in TARGETS:
        text = f"[Unit]\nDescription={name}\nDefaultDependencies=no\n"
        (folder / "units" / f"{name}.target").write_text(text)
    for name, text in units.items():
        (folder / "units" / name).write_text(text)
    group.mkdir()
    inner = ["unshare", "-m", "-p", "-f", "--mount-proc", "-u", "-i", "-n", "-C", "--propagation", "private"]
    inner += ["sh", "-c", BEGIN, "sh", str(folder / "units"), str(SYSTEMD)]
    # The process is in its own cgroup before its namespace is made: that group is all it sees.
    command = ["sh", "-c", f'echo $$ > "{group}/cgroup.procs"; exec "$@"', "sh", *inner]
    log = (folder / "systemd.log").open("wb")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            pid = _child(process.pid)
            if pid and SystemdHost(pid).run("systemctl is-system-running").stdout.strip():
                break
            assert process.poll() is None, (folder / "systemd.log").read_text()
            assert time.monotonic() < deadline, (folder / "systemd.log").read_text()
            time.sleep(0.1)
        host = SystemdHost(pid)
        host.says(f"printf '#!/bin/sh\\nexec {sys.executable} -m dynmem \"$@\"\\n' > /usr/bin/dynmem")
        host.says("chmod +x /usr/bin/dynmem; mkdir -p /etc/dynmem /run/vm")
        yield host
    finally:
        if pid := _child(process.pid):
            os.kill(pid, signal.SIGKILL)  # and with it all of its processes
        process.wait(PATIENCE_S)
        log.close()
        _remove(group)


def _remove(group: Path) -> None:
    """Remove a cgroup and those below it, once their processes have ended."""
    deadline = time.monotonic() + PATIENCE_S
    while group.exists() and time.monotonic() < deadline:
        for each in sorted(group.rglob("*/"), reverse=True):
            if each.is_dir():
                _try_rmdir(each)
        _try_rmdir(group)
        time.sleep(0.05)


def _try_rmdir(group: Path) -> None:
    try:
        group.rmdir()
    except OSError:
        return
