"""Windows as far as documents go: each documented habit of its Dynamic Memory driver, with its source.

No Windows guest has run here. `HABITS` lists what has been published; `windows` returns the habits of one
release, from the rows that fit it. A row that sets nothing is a habit that every guest here has.
docs/windows.md is made from this table. tests/dm/test_windows_*.py show each row on the wire, and that our
host copes with it.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from dynmem.dm.habits import VERSIONS, Habits
from dynmem.limits import DM_BALLOON_CHUNK_PAGES
from dynmem.units import NS_PER_S
from dynmem.wire import dm
from dynmem.wire.versions import (
    VERSION_5_2,
    VERSION_5_3,
    VERSION_WIN7,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
)


class Release(enum.Enum):
    """Releases of Windows Server, oldest first; a client with the same kernel should behave the same."""

    SERVER_2008_R2 = "2008-r2"
    SERVER_2012 = "2012"
    SERVER_2012_R2 = "2012-r2"
    SERVER_2016 = "2016"
    SERVER_2019 = "2019"
    SERVER_2022 = "2022"

    def is_between(self, first: "Release", last: "Release") -> bool:
        """Return whether this is one of the releases from `first` to `last`."""
        order = list(Release)
        return order.index(first) <= order.index(self) <= order.index(last)


class Situation(enum.Enum):
    """What may be special about a guest; a row that needs it holds for no other guest."""

    HIBERNATES = "its firmware offers hibernation"
    NESTS = "it runs Hyper-V itself"
    OTHER_EDITION = "its edition has no Dynamic Memory"


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Habit(NamedTuple):
    """One documented habit.

    Attributes:
        name: What it is called in tests and in docs/windows.md.
        does: What the guest does, as the rest of a sentence about it.
        source: Where that was published.
        since: The first release that the source is about, or shows to have it.
        sets: What it changes in `Habits`.
        until: The last release that has it.
        when: What has to be special about the guest.

    """

    name: str
    does: str
    source: str
    since: Release
    sets: Mapping[str, Any] = _NOTHING
    until: Release = Release.SERVER_2022
    when: Situation | None = None


_QEMU: Final = "QEMU hw/hyperv/hv-balloon.c"
_COMMIT: Final = "QEMU commit 5b80efd0 (hv-balloon), its message"
_LIST: Final = "M. Szmigiero on qemu-devel, 2023-06-13, on version 5 of hv-balloon"
_LINUX: Final = "Linux drivers/hv/hv_balloon.c"
_BUS: Final = "OpenVMM vmbus_core/src/protocol.rs, Version"
_EVENTS: Final = "event messages of dmvsc.sys, collected in libyal/winevt-kb, MessageFile-dmvsc.sys.md"
_XP: Final = "notes on dmvsc.sys 6.3.9600 by the author of mdlex.sys and hvkit, who read it and ran it"
_BOOK: Final = "J. Savill, Mastering Windows Server 2016 Hyper-V, chapter 2"

_R: Final = Release

#: What is documented, in the order of a guest's life. A later row overrides an earlier one.
HABITS: Final = (
    Habit(
        "bus-of-2008-r2",
        "asks for VMBus 1.1 at most",
        f"{_BUS}::Win7; Linux include/linux/hyperv.h",
        _R.SERVER_2008_R2,
        {"newest_bus": VERSION_WIN7},
        _R.SERVER_2008_R2,
    ),
    Habit(
        "bus-of-2012",
        "asks for VMBus 2.4 at most",
        f"{_BUS}::Win8; Linux include/linux/hyperv.h",
        _R.SERVER_2012,
        {"newest_bus": VERSION_WIN8},
        _R.SERVER_2012,
    ),
    Habit(
        "bus-of-2012-r2",
        "asks for VMBus 3.0 at most",
        f"{_BUS}::Win8_1; Linux include/linux/hyperv.h",
        _R.SERVER_2012_R2,
        {"newest_bus": VERSION_WIN8_1},
        _R.SERVER_2012_R2,
    ),
    Habit(
        "bus-of-2016",
        "asks for VMBus 4.0 at most",
        f"{_BUS}::Win10; Linux include/linux/hyperv.h",
        _R.SERVER_2016,
        {"newest_bus": VERSION_WIN10},
        _R.SERVER_2016,
    ),
    Habit(
        "bus-of-2019",
        "asks for VMBus 5.2 at most",
        f"{_BUS}::Win10Rs5",
        _R.SERVER_2019,
        {"newest_bus": VERSION_5_2},
        _R.SERVER_2019,
    ),
    Habit(
        "bus-of-2022",
        "asks for VMBus 5.3 at most",
        f"{_BUS}::Iron",
        _R.SERVER_2022,
        {"newest_bus": VERSION_5_3},
    ),
    Habit(
        "protocol-of-2008-r2",
        "knows version 0.3 of the protocol, so neither information nor hot remove",
        f"{_LINUX}, DYNMEM_PROTOCOL_VERSION_WIN7",
        _R.SERVER_2008_R2,
        {"versions": VERSIONS[2:]},
        _R.SERVER_2008_R2,
    ),
    Habit(
        "protocol-of-2012",
        "knows version 1.0 of the protocol, so no hot remove",
        f"{_LINUX}, DYNMEM_PROTOCOL_VERSION_WIN8",
        _R.SERVER_2012,
        {"versions": VERSIONS[1:]},
        _R.SERVER_2012_R2,
    ),
    Habit(
        "protocol-of-2016",
        "knows version 2.0 of the protocol",
        f"{_LINUX}, DYNMEM_PROTOCOL_VERSION_WIN10",
        _R.SERVER_2016,
        {"versions": VERSIONS},
    ),
    Habit(
        "stops-if-outdated",
        "stops the service when the host refuses the last version it knows",
        f"{_EVENTS}: event 3",
        _R.SERVER_2016,
    ),
    Habit(
        "stops-if-refused",
        "stops the service when the host refuses its capabilities",
        f"{_XP}: the device fails to start",
        _R.SERVER_2012_R2,
    ),
    Habit(
        "silent-on-hyper-v",
        "does not start the service when it runs Hyper-V itself",
        f"{_EVENTS}: event 5; MicrosoftDocs/windowsserverdocs issue 5417",
        _R.SERVER_2016,
        {"speaks": False},
        when=Situation.NESTS,
    ),
    Habit(
        "silent-in-other-editions",
        "does not start the service in an edition without Dynamic Memory",
        f"{_EVENTS}: event 2",
        _R.SERVER_2016,
        {"speaks": False},
        when=Situation.OTHER_EDITION,
    ),
    Habit(
        "probes-hot-add",
        "adds one page that it has already when it starts, and offers hot add unless that is not supported",
        _XP,
        _R.SERVER_2012_R2,
        {"probes_hot_add": True},
    ),
    Habit(
        "no-hot-remove-before-2016",
        "does not offer hot remove: its memory manager cannot",
        "J. Savill, Hot-add and remove requirements for Windows Server 2016 Hyper-V, ITPro Today, 2016",
        _R.SERVER_2008_R2,
        {"hot_removes": False},
        _R.SERVER_2012_R2,
    ),
    Habit(
        "offers-hot-remove",
        "offers hot remove",
        f"{_EVENTS}: event 101",
        _R.SERVER_2016,
        {"hot_removes": True},
    ),
    Habit(
        "hibernates-at-its-size",
        "offers neither hot add nor hot remove when it can hibernate",
        f"{_EVENTS}: event 103",
        _R.SERVER_2022,
        {"hot_adds": False, "hot_removes": False},
        when=Situation.HIBERNATES,
    ),
    Habit(
        "unnamed-capabilities",
        "reports two capabilities, contiguous and fast contiguous allocations, that no header file has "
        "(their bits are our guess)",
        f"{_EVENTS}: event 101",
        _R.SERVER_2019,
        {"unnamed_capabilities": dm.CAP_HOT_REMOVE << 1 | dm.CAP_HOT_REMOVE << 2},
    ),
    Habit(
        "needs-no-pages",
        "reports 0 as the least number of pages it needs",
        f"{_LINUX}, balloon_connect_vsp: as the Windows driver does",
        _R.SERVER_2008_R2,
    ),
    Habit(
        "names-no-last-page",
        "reports all ones as the last page that can be added",
        f"{_LINUX}, balloon_connect_vsp: as the Windows driver does",
        _R.SERVER_2008_R2,
        {"names_last_page": False},
        _R.SERVER_2016,
    ),
    Habit(
        "names-its-last-page",
        "reports the last page that can be added, once it has determined it",
        f"{_EVENTS}: event 101",
        _R.SERVER_2019,
        {"names_last_page": True},
    ),
    Habit(
        "names-its-alignment",
        "reports how hot-added memory has to be aligned, which may change from one boot to the next",
        f"{_COMMIT}; {_LIST}",
        _R.SERVER_2012_R2,
    ),
    Habit(
        "reports-every-second",
        "reports its memory once a second",
        _COMMIT,
        _R.SERVER_2012_R2,
    ),
    Habit(
        "reports-its-page-file",
        "fills in the page file's size and what was written to it, where Linux leaves zeros",
        f"{_LINUX}, struct dm_status: some metrics are Windows specific",
        _R.SERVER_2008_R2,
        {"has_page_file": True},
    ),
    Habit(
        "available-is-mostly-cache",
        "counts its cache as available, and reports fewer free pages than available ones",
        _BOOK,
        _R.SERVER_2008_R2,
        {"cached_percent": 75},
    ),
    Habit(
        "commits-more-than-it-has",
        "reports its commit charge, which may exceed all its memory",
        f"{_BOOK}; C. Nemnom, Dynamic Memory in action with Hyper-V 2012/R2, 2014: 4423 MB of 4096",
        _R.SERVER_2008_R2,
    ),
    Habit(
        "counts-the-balloon",
        "counts what it has given up as committed, as the host expects",
        f"{_LINUX}, post_status",
        _R.SERVER_2008_R2,
    ),
    Habit(
        "no-reserve",
        "keeps no reserve as Linux does: it rather pages out",
        _BOOK,
        _R.SERVER_2008_R2,
        {"keeps_reserve": False},
    ),
    Habit(
        "settles-50-seconds",
        "crashes on a request in the first 50 seconds",
        f"{_QEMU}, HV_BALLOON_POST_INIT_WAIT",
        _R.SERVER_2019,
        {"settles_ns": 50 * NS_PER_S},
    ),
    Habit(
        "ignores-large-requests",
        "does not answer a request for more than 585,728 pages",
        f"{_QEMU}, HV_BALLOON_HR_CHUNK_PAGES",
        _R.SERVER_2012_R2,
        {"largest_request_pages": DM_BALLOON_CHUNK_PAGES},
    ),
    Habit(
        "long-responses",
        "returns up to 585,728 pages in one response: as 1144 ranges of 2 MiB, more than 4096 bytes",
        f"{_QEMU}, HV_BALLOON_HR_CHUNK_PAGES; the size of the ranges is arithmetic",
        _R.SERVER_2012_R2,
        {"ranges_per_response": DM_BALLOON_CHUNK_PAGES // 512},
    ),
    Habit(
        "all-or-nothing",
        "allocates for the balloon all of what was requested, or nothing",
        f"{_XP}: MM_ALLOCATE_FULLY_REQUIRED",
        _R.SERVER_2012_R2,
        {"gives_all_or_nothing": True},
    ),
    Habit(
        "adds-zero-pages",
        "answers that it added no pages when its kernel does not take the range",
        _XP,
        _R.SERVER_2012_R2,
    ),
    Habit(
        "stops-without-an-answer",
        "sends no answer and reads no further message when adding memory fails in a way it does not expect",
        _XP,
        _R.SERVER_2012_R2,
        {"stops_if_unsupported": True},
    ),
    Habit(
        "keeps-added-memory",
        "keeps using hot-added memory after it has disconnected, until the system restarts",
        _LIST,
        _R.SERVER_2012_R2,
    ),
    Habit(
        "removes-boot-memory",
        "can hot-remove memory that it booted with: all of it is pluggable",
        _BOOK,
        _R.SERVER_2016,
    ),
)


def windows(release: Release = Release.SERVER_2022, *special: Situation) -> Habits:
    """Return the documented habits of a release, for a guest about which that is `special`."""
    sets: dict[str, Any] = {}
    for habit in HABITS:
        if release.is_between(habit.since, habit.until) and (habit.when is None or habit.when in special):
            sets.update(habit.sets)
    return Habits(**sets)


#: The newest release.
WINDOWS: Final = windows()
