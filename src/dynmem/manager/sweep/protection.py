"""Reads and writes the two settings of `step.protection`, of exactly the process that they are meant for.

A process's folder in /proc is opened once: it stays that process's, also when its id is used again. A cgroup
is a VM's own if no other process is in it.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dynmem.cgroups import memory_groups
from dynmem.errors import RefusedError
from dynmem.manager.step.protection import Kind, Setting
from dynmem.procfs import PROC, TEXT_BYTES_MAX, text_of

LOW: Final = "memory.low"
_SCORE: Final = "oom_score_adj"
_AFTER_NAME_START: Final = 19  # proc_pid_stat(5): fields are counted after the name in parentheses
_MOST: Final = 1 << 62  # "max", and more than any memory


def present(kind: Kind, life: str, proc: Path = PROC) -> tuple[str, int]:
    """Return the place and the value of a setting of one life of a VM. RefusedError says why there is none.

    Raises OSError: the process has ended, or may not be looked at.
    """
    with _process(life, proc) as (pid, folder):
        if kind == _SCORE:
            return "", _number(_read(folder, _SCORE))
        own = _own_group(pid, _read(folder, "cgroup"), text_of(proc / "self" / "mountinfo"))
        return str(own), _number(text_of(own / LOW))


def write(setting: Setting, value: int, expected: int, proc: Path = PROC) -> bool:
    """Write a value in place of the *expected* one; return whether that was there.

    Raises OSError, and RefusedError where the cgroup is the VM's own no longer.
    """
    place, now = present(setting.kind, setting.life, proc)
    if now != expected or place != setting.place:
        return False
    if setting.kind == LOW:
        with (Path(place) / LOW).open("wb", buffering=0) as file:
            file.write(b"%d" % value)
        return True
    with _process(setting.life, proc) as (_, folder):
        descriptor = os.open(_SCORE, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.write(descriptor, b"%d" % value)
        finally:
            os.close(descriptor)
    return True


def without_effect(setting: Setting) -> str:
    """Return which group above a VM's leaves its memory.low without effect; "" if none does.

    What a group keeps is bounded by what the groups above it keep (cgroup-v2, memory.low); the topmost one
    has no such file.
    """
    folder = Path(setting.place)
    for above in folder.parents:
        try:
            low = _number(text_of(above / LOW))
        except (OSError, RefusedError):
            return ""
        if low < setting.after:
            return str(above)
    return ""


@contextlib.contextmanager
def _process(life: str, proc: Path) -> Iterator[tuple[int, int]]:
    """Yield the id of the process of a life, and a descriptor of its folder. ProcessLookupError: it ended."""
    number, _, start = life.partition("@")
    if not number.isdecimal():
        raise RefusedError("its process cannot be seen")
    folder = os.open(proc / number, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fields = _read(folder, "stat").rpartition(")")[2].split()
        if len(fields) <= _AFTER_NAME_START or fields[_AFTER_NAME_START] != start:
            raise ProcessLookupError(f"process {number} is another one by now")
        yield int(number), folder
    finally:
        os.close(folder)


def _own_group(pid: int, groups: str, mounts: str) -> Path:
    try:
        folders = [each.folder for each in memory_groups(groups, mounts) if each.huge_usage]  # version 2
    except ValueError:
        raise RefusedError("its cgroups are not in the kernel's form") from None
    if not folders or not (folders[0] / LOW).exists():
        raise RefusedError("its cgroup has no memory.low: that is of version 2 only")
    if text_of(folders[0] / "cgroup.procs").split() != [str(pid)]:
        raise RefusedError(f"its cgroup {folders[0]} is not its own: other processes are in it")
    return folders[0]


def _read(folder: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, TEXT_BYTES_MAX).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


def _number(text: str) -> int:
    word = text.strip()
    if word == "max":
        return _MOST
    digits = word.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 19:
        raise RefusedError(f"{word[:20]!r} is not a number of the kernel's")
    return int(word)
