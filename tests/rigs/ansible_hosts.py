"""Hosts for Ansible: roots of their own over this machine's files, which they cannot change.

What such a host writes to /etc, /opt, /usr and /var is in memory and ends with it; it has its own /run
and its own processes. Its systemctl is a stand-in for the one unit, and runs a real `dynmem run`. Ansible
reaches it by its Python, which is started in there, so one playbook can have several hosts.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from tests.rigs.scenes import PATIENCE_S

ROOT: Final = Path(__file__).resolve().parent.parent.parent
FOLDER: Final = ROOT / "contrib" / "ansible"
PROGRAMS: Final = ROOT / ".cache" / "ansible" / "bin"
DYNMEM: Final = f'#!/bin/sh\nexec "{sys.executable}" -m dynmem "$@"\n'
WRITABLE: Final = ("etc", "opt", "usr", "var")

needs_ansible: Final = pytest.mark.skipif(
    not (PROGRAMS / "ansible-playbook").exists(), reason="make test fetches Ansible (scripts/setup-ansible)"
)
needs_roots: Final = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "setsid"))),
    reason="it takes root to give a host a root of its own",
)

_BEGIN: Final = """
set -e
hostname $0
mount -t tmpfs tmpfs /mnt
for folder in "$@"; do
    upper=/mnt/$folder.upper work=/mnt/$folder.work
    mkdir $upper $work
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=$upper,workdir=$work /$folder
done
mount -t tmpfs tmpfs /run
: > /run/set-up
sleep infinity & wait # the first process reaps those that nobody else waits for
"""
_SYSTEMCTL: Final = """#!/bin/sh
# What Ansible and the role ask of systemd, for dynmem.service alone; its unit is not read.
case $1 in show|is-*|list-*) ;; *) echo "$*" >> /run/systemctl.log ;; esac
wanted=/etc/systemd/system/multi-user.target.wants/dynmem.service
running() { kill -0 "$(cat /run/dynmem.pid 2>/dev/null)" 2>/dev/null; }
case $1 in
    show)
        running && state=active || state=inactive
        printf 'LoadState=loaded\\nActiveState=%s\\n' $state ;;
    is-enabled) [ -e $wanted ] && echo enabled || { echo disabled; exit 1; } ;;
    enable) : > $wanted ;;
    disable) rm -f $wanted ;;
    start|restart)
        [ $1 = restart ] && running && "$0" stop
        mkdir -p -m 700 /run/dynmem /var/lib/dynmem
        setsid dynmem run < /dev/null > /run/dynmem.log 2>&1 &
        echo $! > /run/dynmem.pid
        until [ -S /run/dynmem/api.sock ]; do running || exit 1; sleep 0.05; done ;;
    stop)
        kill "$(cat /run/dynmem.pid)"
        while running; do sleep 0.05; done
        rm -rf /run/dynmem /run/dynmem.pid ;;
    reload) dynmem config check > /run/check.log 2>&1 && kill -HUP "$(cat /run/dynmem.pid)" ;;
esac
"""


class Reached:
    """A host that Ansible reaches by a Python which is started in the namespaces of a process.

    Attributes:
        name: What the inventory calls it.
        python: That Python.
    """

    def __init__(
        self, name: str, pid: int, folder: Path, namespaces: Sequence[str] = ("-m", "-p", "-u")
    ) -> None:
        self.name = name
        self.python = folder / f"python-{name}"
        enter = shlex.join(["nsenter", "-t", str(pid), *namespaces, sys.executable])
        self.python.write_text(f'#!/bin/sh\nexec {enter} "$@"\n')
        self.python.chmod(0o755)


class Host(Reached):
    """One of them; the path of a file in it is that on the host, without the first slash."""

    def __init__(self, name: str, pid: int, folder: Path) -> None:
        super().__init__(name, pid, folder)
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")
        self.program("systemctl", _SYSTEMCTL)
        self.program("dynmem", DYNMEM)
        self._begun = self._upper()

    def program(self, name: str, text: str) -> None:
        """Put a program into its path."""
        path = self.root / "usr" / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def asked_of_systemd(self) -> list[str]:
        """Return what was asked since the last call, but for questions."""
        log = self.root / "run" / "systemctl.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def dynmem(self, *arguments: str) -> str:
        """Run dynmem in there, and return what it prints."""
        command: list[str | Path] = [self.python, "-m", "dynmem", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    def left(self) -> set[str]:
        """Return what stands there that did not when it began, and what went: names below the root."""
        return self._upper() ^ self._begun

    def _upper(self) -> set[str]:
        found = set()
        for folder in WRITABLE:
            upper = self.root / "mnt" / f"{folder}.upper"
            found |= {f"{folder}/{path.relative_to(upper)}" for path in upper.rglob("*")}
        # A folder that this machine has too is there for what was in it.
        return {name for name in found if not (Path("/", name).is_dir() and (self.root / name).is_dir())}


@contextmanager
def hosts(folder: Path, *names: str) -> Iterator[list[Host]]:
    """Run some for as long as the block lasts."""
    command = ["unshare", "-m", "-p", "-u", "-f", "--mount-proc", "--propagation", "private"]
    command += ["sh", "-c", _BEGIN]
    log = (folder / "hosts.log").open("wb")
    running = [
        subprocess.Popen([*command, name, *WRITABLE], stdin=subprocess.DEVNULL, stderr=log) for name in names
    ]
    try:
        pids = [_first_process(each) for each in running]
        yield [Host(name, pid, folder) for name, pid in zip(names, pids, strict=True)]
    finally:
        for each in running:
            if pid := _child(each.pid):
                os.kill(pid, signal.SIGKILL)  # and with it all of its processes
            each.wait(PATIENCE_S)
        log.close()


def _child(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    except (OSError, IndexError):
        return 0


def _first_process(unshare: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + PATIENCE_S
    while not (pid := _child(unshare.pid)) or not Path(f"/proc/{pid}/root/run/set-up").exists():
        assert unshare.poll() is None, "no root of its own"
        assert time.monotonic() < deadline, "no root of its own in time"
        time.sleep(0.02)
    return pid


class Played(NamedTuple):
    """What a playbook did.

    Attributes:
        code: Its exit code: 0 OK, 2 a task failed.
        text: What it printed.
    """

    code: int
    text: str

    def tasks(self, host: Reached, result: str) -> list[str]:
        """Return the tasks that ended like this on a host: ok, changed, fatal or skipping."""
        found, task = [], ""
        for line in self.text.splitlines():
            if match := re.match(r"(?:TASK|RUNNING HANDLER) \[(?:dynmem : )?(.*)\]", line):
                task = match[1]
            elif re.match(rf"{result}: \[{host.name}\]", line):
                found.append(task)
        return found


class Controller:
    """An `ansible-playbook` with an inventory of these hosts."""

    def __init__(self, folder: Path, machines: Sequence[Reached]) -> None:
        self.folder = folder
        self.machines = machines
        for each in FOLDER.glob("*.yml"):
            (folder / each.name).write_text(each.read_text())
        # For plays that run on the controller itself.
        self.programs = folder / "bin"
        self.programs.mkdir()
        (self.programs / "dynmem").write_text(DYNMEM)
        (self.programs / "dynmem").chmod(0o755)

    def play(self, *arguments: str, playbook: str = "site.yml", **of_hosts: Mapping[str, object]) -> Played:
        """Run a playbook of the example; variables of hosts by their names, those of all of them by `kvm`."""
        inventory: dict[str, Any] = {
            "kvm": {
                "hosts": {
                    host.name: {"ansible_python_interpreter": str(host.python), **of_hosts.get(host.name, {})}
                    for host in self.machines
                },
                "vars": {"ansible_connection": "local", "ansible_become": False, **of_hosts.get("kvm", {})},
            }
        }
        path = self.folder / "hosts.json"  # JSON is YAML
        path.write_bytes(msgspec.json.encode(inventory))
        done = subprocess.run(
            [PROGRAMS / "ansible-playbook", "-i", path, playbook, *arguments],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self._environment(),
            timeout=10 * PATIENCE_S,
        )
        return Played(done.returncode, done.stdout + done.stderr)

    def _environment(self) -> dict[str, str]:
        return {
            "ANSIBLE_DEPRECATION_WARNINGS": "false",
            "ANSIBLE_GATHERING": "explicit",
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_NOCOWS": "1",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_REMOTE_TEMP": str(self.folder / "remote"),
            "ANSIBLE_ROLES_PATH": str(FOLDER / "roles"),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{self.programs}:{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin",
        }
