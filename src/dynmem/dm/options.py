"""How an end of the Dynamic Memory Protocol is set up: what stays the same while it runs."""

from typing import Final

import msgspec

from dynmem.dm.habits import LINUX, Habits
from dynmem.limits import DM_BALLOON_CHUNK_PAGES, DM_HOT_ADD_ATTEMPTS
from dynmem.units import NS_PER_S
from dynmem.wire import dm

# Windows Server 2019 crashes when it gets a request earlier after its boot
POST_INIT_WAIT_NS: Final = 50 * NS_PER_S
REPLY_DEADLINE_NS: Final = 20 * NS_PER_S
HOT_ADD_RETRY_NS: Final = 10 * NS_PER_S

# as Linux
ANSWER_DEADLINE_NS: Final = 5 * NS_PER_S


class HostOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The set-up of a host's end.

    Attributes:
        status_report: Whether the guest shall send status reports.
        post_init_wait_ns: From the end of the handshake to the first request.
        reply_deadline_ns: How long a guest may make no progress before the host is stuck.
        balloon_chunk_pages: The largest balloon request.
        max_version: The newest protocol version to accept.
        hot_add_region: Whether a hot add names the region of its range as well (the longer form).
        hot_add_retry_ns: The time before a guest that was short of resources gets the next request.
        max_page_count: The most pages that the guest will ever have, sent to it from version 1.0 on.

    """

    status_report: bool
    post_init_wait_ns: int = POST_INIT_WAIT_NS
    reply_deadline_ns: int = REPLY_DEADLINE_NS
    balloon_chunk_pages: int = DM_BALLOON_CHUNK_PAGES
    max_version: int = dm.VERSION_WIN10
    hot_add_region: bool = True
    hot_add_retry_ns: int = HOT_ADD_RETRY_NS
    max_page_count: int | None = None


class GuestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The set-up of a guest's end.

    Attributes:
        caps: Capability bits to report, beside those for adding and removing memory.
        min_page_cnt: The least number of pages that the guest says it needs.
        status_interval_ns: Between two status reports.
        status_delay_ns: From the end of the handshake to the first status report (Linux: 45 s).
        answer_deadline_ns: For each answer of the handshake.
        page_limit: All page numbers that can ever be added are below this; None: no memory is added.
        hot_add_attempts: Attempts that may fail for want of resources before a hot add fails.
        hot_add_retry_ns: Between two attempts.
        habits: What kind of guest it is.

    """

    caps: int = dm.CAP_BALLOON
    min_page_cnt: int = 0
    status_interval_ns: int = NS_PER_S
    status_delay_ns: int = 0
    answer_deadline_ns: int = ANSWER_DEADLINE_NS
    page_limit: int | None = None
    hot_add_attempts: int = DM_HOT_ADD_ATTEMPTS
    hot_add_retry_ns: int = NS_PER_S
    habits: Habits = LINUX
