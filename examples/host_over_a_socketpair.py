"""A Dynamic Memory host and a guest's driver, in two processes, with a socket pair for a channel.

The host asks a guest of 1 GiB for half of its memory and then returns it. One loop drives both ends: the
protocol does no I/O, so the sockets, the clock and the waiting are ours.
"""

import os
import select
import socket
import sys
from collections.abc import Callable
from time import monotonic_ns

from dynmem.dm import DynamicMemoryGuest, DynamicMemoryHost, GivenUp, HostOptions, HostState
from dynmem.pages import PageSet, span
from dynmem.units import GIB, NS_PER_S, PAGE_SIZE

GUEST_PAGES = GIB // PAGE_SIZE


class Balloon(PageSet):
    """The host's `PageStore`: what the guest has given up. A VMM would also discard these pages."""

    @property
    def removed_pages(self) -> int:
        return len(self)

    def add_given(self, ranges: bytes) -> GivenUp:
        added = self.add(ranges)
        return GivenUp(added.new, added.duplicates, added.rejected)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        return self.take(max_pages, max_ranges)

    def undo(self, ranges: bytes) -> None:
        self.add(ranges)


class FreePages(PageSet):
    """The guest's `PageAllocator`: the upper three quarters of its memory are free."""

    committed_pages = GUEST_PAGES // 4

    def __init__(self) -> None:
        super().__init__(GUEST_PAGES)
        self.add(span(self.committed_pages, GUEST_PAGES - self.committed_pages))

    @property
    def available_pages(self) -> int:
        return len(self)

    def allocate_for_balloon(self, pages: int) -> bytes:
        return self.take(pages, max_ranges=510)  # what one message holds

    def free_from_balloon(self, ranges: bytes) -> None:
        self.add(ranges)


def run(
    end: DynamicMemoryHost | DynamicMemoryGuest, channel: socket.socket, until: Callable[[], bool]
) -> None:
    """Drive one end until it is done, or the other end has closed the channel."""
    while not until():
        while (message := end.next_message()) is not None:
            channel.send(message)
            end.message_sent(monotonic_ns())
        deadline = end.deadline_ns()
        seconds = None if deadline is None else max(0, deadline - monotonic_ns()) / NS_PER_S
        if select.select([channel], [], [], seconds)[0]:
            data = channel.recv(4096)
            if not data:
                return
            end.receive(data, monotonic_ns())
        end.tick(monotonic_ns())
        for event in end.take_events():
            sys.stdout.write(f"{type(end).__name__}: {event}\n")
            sys.stdout.flush()


def main() -> None:
    """Give each end a process; the host shrinks the guest to a half and grows it again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps messages apart
    if os.fork() == 0:
        ours.close()
        guest = DynamicMemoryGuest(pages=FreePages(), total_pages=GUEST_PAGES)
        guest.channel_opened(monotonic_ns())
        run(guest, theirs, until=lambda: False)
        return
    theirs.close()
    # by default a host asks for nothing in the first 50 s, for the sake of Windows guests that are booting
    options = HostOptions(status_report=True, post_init_wait_ns=0)
    host = DynamicMemoryHost(store=Balloon(GUEST_PAGES), boot_pages=GUEST_PAGES, options=options)
    host.reset(monotonic_ns())
    host.channel_opened(monotonic_ns())
    for target in (GUEST_PAGES // 2, GUEST_PAGES):
        host.set_target(target, monotonic_ns())
        run(host, ours, until=lambda: host.state is HostState.IDLE and host.actual_pages == host.target_pages)
        print(f"the guest has {host.actual_pages} pages", flush=True)


if __name__ == "__main__":
    main()
