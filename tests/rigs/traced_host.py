"""The host's protocol end with the device's own accounts and memory to add, traced as QEMU traces its own."""

from tests.rigs.added_memory import Plugged

from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import HostOptions
from dynmem.trace_events import Trace, matching
from dynmem.units import MIB, PAGE_SHIFT
from dynmem.vm.balloon.accounts import Memory
from dynmem.vm.balloon.given_trace import TracedPages

BOOT = 256 * MIB >> PAGE_SHIFT  # as in QEMU's sessions
ADDED = 512 * MIB  # in two slots


class TracedHost:
    """A host of BOOT pages that can add ADDED bytes; `lines` is its log."""

    def __init__(self, *patterns: str) -> None:
        self.lines: list[str] = []
        trace = Trace(matching(patterns), lambda name, text: self.lines.append(f"{name} {text}"))
        self.now = 0
        plugged = Plugged(ADDED, trace=trace)
        plugged.memory.cut_into(2)
        pages = TracedPages(lambda: self.now, trace, lambda: plugged.memory.our_range)
        pages.plug(Memory([(0, BOOT)]))
        pages.plug(plugged.memory.memory, is_added=True)
        self.dm = DynamicMemoryHost(
            store=pages,
            boot_pages=BOOT,
            hot_add=plugged.memory,
            trace=trace,
            options=HostOptions(status_report=True),
        )

    def send(self) -> None:
        """Let it send all it has."""
        while self.dm.next_message() is not None:
            self.dm.message_sent(self.now)
