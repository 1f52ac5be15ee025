"""What each state of a VM allows, as a table: whether anything may be sent to it, and who runs afterwards.

A state is QEMU's RunState (qapi/run-state.json), or one of these, which say more than "running":

    migrating              its memory is being moved (query-migrate)
    backup                 a job of its monitor copies its disks (query-jobs)
    save-vm, restore-vm    a job saves or loads a snapshot (query-jobs); RunStates as well
    silent, absent         its monitor does not reply; its process has ended

A VM to which nothing may be sent keeps its target and counts as it is. Where another guest runs afterwards,
nothing that is known of the former one counts: the VM has all its memory until the new one has reported, and
its size is adopted again. A lock of another program (`VmFacts.lock`) does the same as a state of the first
kind. A state that QEMU may come to have one day is treated like any other that is not "running".
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from dynmem.manager.step.facts import ABSENT, BACKUP, MIGRATING, RESTORING, RUNNING, SAVING, SILENT, VmFacts


class Allows(NamedTuple):
    """What a state allows.

    Attributes:
        sending: Whether a target or a setting may be sent.
        another_guest: Whether the guest that runs afterwards is another than the one that has reported.
        copied: Whether all of the VM is being copied or moved: nobody ends it meanwhile, either.
        why: What is going on, as a part of a sentence; "" where the state's name says it.
    """

    sending: bool = False
    another_guest: bool = False
    copied: bool = False
    why: str = ""


STATES: Final[Mapping[str, Allows]] = {
    RUNNING: Allows(sending=True),
    # its memory comes, goes or is copied
    MIGRATING: Allows(copied=True, why="its memory is being moved to another host or into a file"),
    "finish-migrate": Allows(copied=True, why="its memory is being moved, and it is stopped for the rest"),
    "postmigrate": Allows(copied=True, why="its memory has been moved"),
    "colo": Allows(copied=True, why="its memory is being copied to another host all the time"),
    "inmigrate": Allows(
        another_guest=True, copied=True, why="its memory is to come from another host or from a file"
    ),
    SAVING: Allows(copied=True, why="a snapshot of it is being saved"),
    RESTORING: Allows(another_guest=True, copied=True, why="a snapshot of it is being loaded"),
    BACKUP: Allows(copied=True, why="its disks are being backed up"),
    # it does not run
    "prelaunch": Allows(why="it has not been started yet"),
    "preconfig": Allows(why="it is still being put together"),
    "paused": Allows(),
    "debug": Allows(),
    "suspended": Allows(why="its guest has suspended it"),
    "shutdown": Allows(),
    "guest-panicked": Allows(),
    "io-error": Allows(),
    "internal-error": Allows(),
    "watchdog": Allows(),
    # its monitor does not say
    SILENT: Allows(),
    ABSENT: Allows(),
}


def allows(run_state: str) -> Allows:
    """Return what a state allows, whatever its name."""
    return STATES.get(run_state, Allows())


def may_send(run_state: str, lock: str) -> bool:
    """Return whether anything may be sent to a VM in this state, and with this lock of another program."""
    return allows(run_state).sending and not lock


def is_held(facts: VmFacts) -> bool:
    """Return whether a VM is not even to be ended now: another program works with all of it."""
    return bool(facts.lock) or allows(facts.run_state).copied
