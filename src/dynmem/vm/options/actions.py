"""The options about what a guest's reset and a guest's crash lead to: ``--no-reboot`` and ``--action``."""

import enum
from dataclasses import dataclass

from dynmem.vm.options.text import Keys


class PanicAction(enum.Enum):
    """What a guest's crash leads to (QEMU qapi/run-state.json, PanicAction)."""

    PAUSE = "pause"
    SHUTDOWN = "shutdown"
    EXIT_FAILURE = "exit-failure"
    NONE = "none"


class RebootAction(enum.Enum):
    """What a reset leads to (QEMU qapi/run-state.json, RebootAction)."""

    RESET = "reset"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True)
class ActionOptions:
    """``--action``.

    Attributes:
        reboot: What a reset leads to.
        panic: What a guest's crash leads to.
    """

    reboot: RebootAction = RebootAction.RESET
    panic: PanicAction = PanicAction.SHUTDOWN


def parse_actions(texts: tuple[str, ...], *, no_reboot: bool) -> ActionOptions:
    """Parse all ``--action`` options, each ``panic=ACTION`` or ``reboot=ACTION``; the last one counts.

    `no_reboot` is QEMU's older way to say ``reboot=shutdown``.
    """
    reboot = RebootAction.SHUTDOWN if no_reboot else RebootAction.RESET
    panic = PanicAction.SHUTDOWN
    for text in texts:
        keys = Keys("action", text, implied="event")
        keys.only(("panic", "reboot"))
        panic = PanicAction(keys.one_of("panic", [each.value for each in PanicAction], panic.value))
        reboot = RebootAction(keys.one_of("reboot", [each.value for each in RebootAction], reboot.value))
    return ActionOptions(reboot, panic)
