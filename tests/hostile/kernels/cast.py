"""The cast of hostile kernels: each is `kernel.S` with another member, a label that its processors run to.

None of them says what must happen: the stage holds the same of every one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.rigs import assembled

SOURCE: Final = Path(__file__).with_name("kernel.S")


class Member(NamedTuple):
    """What its processors run to, how many there are, and further options of its machine."""

    label: str
    processors: int = 2
    options: tuple[str, ...] = ()


CAST: Final = {
    "it writes to a port where nothing is": Member("outs", 8),
    "it reads ports where nothing is": Member("reads"),
    "it writes to its console": Member("console"),
    "it writes to its console from eight processors": Member("console", 8),
    "it reads each register of its serial port, whose interrupt rises and falls": Member("console_in", 4),
    "it writes and reads strings of a million ports": Member("long_strings", 4),
    "it reads its clock": Member("clock"),
    "it reads and writes memory that is not there": Member("absent_memory", 8),
    "it copies memory that is not there": Member("absent_strings", 2),
    "it gives each SINT another vector, without end": Member("vectors", 1),
    "it gives each SINT of eight processors another vector, without end": Member("vectors", 8),
    "it moves its pages all the time, also out of its memory": Member("pages", 8),
    "it ends messages that it never had": Member("ends_of_message", 8),
    "it reads and writes registers that are not there": Member("absent_registers", 8),
    "it asks for the time": Member("times", 4),
    "it makes calls that nobody knows, and posts noise": Member("calls", 8),
    "it makes contact and takes it back, from one processor": Member("contacts", 1),
    "it makes contact and takes it back, from eight processors": Member("contacts", 8),
    "it makes contact, with vectors that change and messages that stay": Member("with_synic", 8),
    "it reports all memory as free": Member("free_pages", 4),
    "it rings the doorbell of its balloon": Member("doorbells", 8),
    "it rings a doorbell that is none": Member("wrong_doorbells", 8),
    "its processors interrupt each other, and a timer all of them": Member("interrupts", 8),
    "it crashes again and again": Member("crashes", 4, ("--action=panic=none",)),
    "it crashes, and is to be paused": Member("crashes", 4, ("--action=panic=pause",)),
    "it resets its machine by all ways at once": Member("resets", 8),
    "it resets its machine by a triple fault": Member("triple_faults", 1),
    "it resets its machine of eight processors as soon as it starts": Member("resets", 2),
    "it computes": Member("computes", 8),
    "it halts with no interrupt to come": Member("halts", 8),
    "it sleeps in every way that does not end it": Member("sleeps_in_power_management", 2),
    "its processors do each another of these": Member("everything", 8),
}


def options_of_kernels(folder: Path) -> Callable[[str], Sequence[str]]:
    """Return what makes a member's kernel in a folder, and returns the options of a machine with it."""

    def options(sentence: str) -> Sequence[str]:
        member = CAST[sentence]
        kernel = folder / f"{member.label}.kernel"
        assembled.assemble(SOURCE, kernel, MEMBER=member.label)
        return (f"--kernel={kernel}", f"--smp={member.processors}", *member.options)

    return options
