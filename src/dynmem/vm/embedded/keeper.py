"""The keeper of a guest: a process that ends everything that its guest started, however its VM ends.

    VM -- control socket --> keeper --> [keeper as the first process of a pid namespace] --> guest --> ...

A script, not a module of the program: an interpreter that has loaded nothing else runs it (``python -I -S``),
so it imports little and nothing of dynmem. What it does it does before the guest's program is executed, so
nothing depends on what that program does. There are four means, from the strongest to the weakest:

- ``user``: a user and a pid namespace. When the namespace's first process ends, the kernel ends all others
  in it. That process dies with its parent, and the parent with the VM (PR_SET_PDEATHSIG). The guest has no
  privilege over any process outside, though its user is the same.
- ``pid``: a pid namespace only, for a privileged user. The guest keeps the user's privileges.
- ``cgroup``: a cgroup (v2) of the guest's own, killed as a whole when the control socket closes.
- ``reaper``: this process alone, which adopts the guest's orphans and kills its children until none is left.

The last two need this process to live on: a guest that kills or stops it first can outlive its VM.

On the control socket (SOCK_SEQPACKET) the keeper says ``kept`` once it is the process whose end is the end of
all, and starts the guest at ``go``. Then ``started`` or ``failed ERRNO FILE``; later ``exited STATUS``, as of
waitpid(2). ``refused ERRNO WHAT`` means that these means are not to be had. It obeys ``freeze``, which it
answers with ``frozen``, ``thaw`` and ``kill``. The sender's process id comes with each message (SO_PASSCRED).
"""

import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable

MEANS = ("user", "pid", "cgroup", "reaper")
GUEST_DESCRIPTORS_MAX = 256  # open ones, and those that it may have in flight
GUEST_PROCESSES_MAX = 1024  # with their threads; the kernel takes 301 or more
OWN_PID_MAX_SINCE = (6, 14)  # the Linux whose kernel.pid_max is a namespace's and not the host's

_CLONE_NEWPID = 0x2000_0000
_CLONE_NEWUSER = 0x1000_0000
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_MAX = 64
_MESSAGE_BYTES = 4096
_RETRY_S = 0.001
_ORDERS = {"freeze": signal.SIGSTOP, "thaw": signal.SIGCONT, "kill": signal.SIGKILL}
_LIBC = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """These means are not to be had."""


def main(arguments: list[str]) -> int:
    """Keep one guest: MEANS, CONTROL and HARDWARE descriptors, the VM's PID, NEEDED paths, program."""
    means, control, hardware, vm = arguments[0], *map(int, arguments[1:4])
    needed, program = [path for path in arguments[4].split(os.pathsep) if path], arguments[5:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)  # sent to a group of processes, they are for the VM to handle
    os.set_inheritable(control, False)
    try:
        if means in ("user", "pid"):
            return _in_namespace(means, control, hardware, vm, needed, program)
        return _in_sight(means, control, hardware, program)
    except RefusedError as error:
        _say(control, f"refused {error}")
    except OSError as error:
        _say(control, f"failed {error.errno} {error.filename or 'its keeper'}")
    return 1


def _in_namespace(
    means: str, control: int, hardware: int, vm: int, needed: list[str], program: list[str]
) -> int:
    """Keep the guest in a pid namespace, as the parent of its first process."""
    _unshare(_CLONE_NEWPID | (_CLONE_NEWUSER if means == "user" else 0))
    _die_with_parent()
    if os.getppid() != vm:  # it ended before that
        return 1
    alive, ours = os.pipe()
    first = os.fork()
    if first:
        for descriptor in (control, hardware, alive):
            os.close(descriptor)
        os.waitpid(first, 0)
        return 0
    os.close(ours)
    _die_with_parent()
    if select.select([alive], [], [], 0)[0]:  # its end is closed: it ended before that
        return 1
    if means == "user":
        for path in needed:
            if not os.access(path, os.X_OK):
                raise RefusedError(f"{errno.EACCES} {path}")
    _bound_processes()
    guest = _start(control, hardware, program, unprivileged=means == "user")
    if guest:
        _watch(control, guest, _signal_namespace)
    os._exit(0)  # and with it, every process of the namespace


def _bound_processes() -> None:
    """Bound the number of processes in this namespace, where that changes no other namespace."""
    with contextlib.suppress(ValueError, OSError):  # a release in words, or settings that may not be changed
        major, minor = os.uname().release.replace("-", ".").split(".")[:2]
        if (int(major), int(minor)) >= OWN_PID_MAX_SINCE:
            _write("/proc/sys/kernel/pid_max", str(GUEST_PROCESSES_MAX))


def _in_sight(means: str, control: int, hardware: int, program: list[str]) -> int:
    """Keep the guest as one that adopts its orphans, and kill its children until none is left."""
    cgroup = make_cgroup() if means == "cgroup" else None
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        guest = _start(control, hardware, program, cgroup=cgroup)
        if guest:
            _watch(control, guest, lambda number: _signal_descendants(os.getpid(), number))
    finally:
        _kill_children(cgroup)
    return 0


def _start(
    control: int,
    hardware: int,
    program: list[str],
    *,
    unprivileged: bool = False,
    cgroup: str | None = None,
) -> int:
    """Start the guest when the VM says so; return its process id, 0 if it was not started."""
    _say(control, "kept")
    if not _heard(control):
        return 0
    problem, child_problem = os.pipe()
    keeper = os.getpid()
    guest = os.fork()
    if not guest:
        try:
            _become_guest(control, keeper, unprivileged=unprivileged, cgroup=cgroup)
            os.set_inheritable(hardware, True)
            os.execvp(program[0], program)  # noqa: S606 - a program of the operator's
        except OSError as error:
            os.write(child_problem, f"{error.errno} {error.filename or program[0]}".encode())
        except MemoryError:
            os.write(child_problem, f"{errno.ENOMEM} {program[0]}".encode())
        finally:
            os._exit(1)
    os.close(child_problem)
    os.close(hardware)  # so that the VM sees when the guest closes its own
    failure = os.read(problem, _MESSAGE_BYTES)
    os.close(problem)
    _say(control, f"failed {failure.decode()}" if failure else "started")
    return 0 if failure else guest


def _become_guest(control: int, keeper: int, *, unprivileged: bool, cgroup: str | None) -> None:
    """Take from this process what a guest does not have, before its program begins."""
    os.setsid()  # kill(0) would reach the VM and all that was started with it
    _die_with_parent()
    if os.getppid() != keeper:
        os._exit(1)
    if cgroup is not None:
        _write(f"{cgroup}/cgroup.procs", "0")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(_CAPABILITIES_MAX if unprivileged else 0):
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):  # the first that this kernel does not have
            break
    # the quota of descriptors in flight is its user's: what is refused to it is left for the others
    limit = min(GUEST_DESCRIPTORS_MAX, max(resource.getrlimit(resource.RLIMIT_NOFILE)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    # an interpreter ignores the one and sets the other
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.environ.pop("LC_CTYPE", None)
    _say(control, "guest")


def _watch(control: int, guest: int, signal_all: Callable[[int], None]) -> None:
    """Obey the VM until it is gone, or until the guest's first process has ended, whose status is sent."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while (status := _reaped(guest)) is None:
        for descriptor, _ in poll.poll():
            message = _heard(descriptor)
            if descriptor == control:
                if not message:
                    return
                signal_all(_ORDERS[message])
                if message == "freeze":
                    _say(control, "frozen")
    _say(control, f"exited {status}")


def _reaped(guest: int) -> int | None:
    """Reap what has ended, orphans too; return the guest's status if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == guest:
            return status
        if not pid:
            return None


def _kill_children(cgroup: str | None) -> None:
    """Kill all children until there is none: whoever loses its parent becomes one."""
    while True:
        if cgroup is not None:
            _write(f"{cgroup}/cgroup.kill", "1")
        for child in _children(os.getpid()):
            os.kill(child, signal.SIGKILL)  # a child that nobody else reaps: its number is not used again
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(_RETRY_S)
    if cgroup is not None:
        os.rmdir(cgroup)


def _signal_namespace(number: int) -> None:
    """Send a signal to every process of the namespace but its first; none can be forked meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _signal_descendants(pid: int, number: int) -> None:
    """Send a signal to every descendant that can be seen now."""
    for child in _children(pid):
        with contextlib.suppress(OSError):  # it has ended
            os.kill(child, number)
            _signal_descendants(child, number)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as children:
            found += map(int, children.read().split())
    return found


def make_cgroup() -> str:
    """Make a cgroup below this process's own. Raises RefusedError."""
    try:
        with open("/proc/self/mountinfo") as mounts:
            points = [line.split()[4] for line in mounts if " - cgroup2 " in line]
        with open("/proc/self/cgroup") as groups:
            own = [line.strip()[3:] for line in groups if line.startswith("0::/")]
        cgroup = f"{points[0]}{own[0].rstrip('/')}/dynmem-guest-{os.getpid()}"
        os.mkdir(cgroup)
    except IndexError:
        raise RefusedError(f"{errno.ENOENT} a cgroup v2") from None
    except OSError as error:
        raise RefusedError(f"{error.errno} {error.filename}") from None
    if not os.path.exists(f"{cgroup}/cgroup.kill"):
        os.rmdir(cgroup)
        raise RefusedError(f"{errno.ENOENT} cgroup.kill")
    return cgroup


def _unshare(flags: int) -> None:
    """Make namespaces for the children of this process. Raises RefusedError."""
    user, group = os.geteuid(), os.getegid()
    if _LIBC.unshare(flags):
        raise RefusedError(f"{ctypes.get_errno()} unshare")
    # without its number there (root that may not have it) the guest can make no file, and is held as well
    with contextlib.suppress(OSError):
        if flags & _CLONE_NEWUSER:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; check afterwards that it has not yet."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")


def _say(control: int, message: str) -> None:
    """Send a message to the VM, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(control, message.encode())


def _heard(descriptor: int) -> str:
    """Return the next message; "" when the VM is gone."""
    with contextlib.suppress(OSError):
        return os.read(descriptor, _MESSAGE_BYTES).decode()
    return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
