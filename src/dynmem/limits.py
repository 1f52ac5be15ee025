"""Every bound of the product in one table, each with its reason.

Whatever a guest, a peer or a file can make grow is bounded by a name from here.
"""

from typing import Final

DM_MESSAGE_BYTES_MAX: Final = 4096  # Hyper-V and Linux build balloon messages in one page
DM_RANGES_PER_MESSAGE: Final = 510  # (4096 - 16) / 8
PAGE_RANGE_PAGES_MAX: Final = (1 << 24) - 1  # 24 bits of page_cnt
GUEST_PAGE_MAX: Final = (1 << 40) - 1  # 40 bits of start_page, the AMD64 limit
GUEST_ADDRESS_BYTES_MAX: Final = (
    1 << 40
)  # addresses the embedded guest reserves for RAM and device memory; never committed
MANAGER_VMS_MAX: Final = 1000  # more than any single host runs; bounds every table of the manager
MANAGER_CONFIG_BYTES_MAX: Final = 1 << 20  # a thousand VMs with every key set are about 300 KiB
MANAGER_NAME_MAX: Final = 64  # a VM's name is a key, a file name and a column
MANAGER_DESCRIPTORS_PER_VM: Final = 3  # its monitor, its pidfd, and one to read /proc with
MANAGER_DESCRIPTORS: Final = 256  # besides: API clients, journal, epoll, the threads that read /proc
API_REQUEST_BYTES_MAX: Final = 4096  # the longest request names one VM
API_REPLY_BYTES_MAX: Final = 8 << 20  # a status of a thousand VMs is about 1 MiB
API_CLIENTS_MAX: Final = 64  # people and scripts at once
API_RESERVATIONS_MAX: Final = 64  # VMs about to start at once
JOURNAL_ROWS_MAX: Final = 20_000  # about a week of a busy host, 4 MiB
JOURNAL_TEXT_MAX: Final = 500  # characters of a reason or an outcome that are kept
RECONNECT_PAUSE_S_MAX: Final = 30.0  # a monitor that somebody else holds is looked at twice a minute
PROC_DESCRIPTORS_MAX: Final = 4096  # descriptors of a VM process that are looked through for its RAM
LAB_REPORT_LINE_BYTES_MAX: Final = 1024  # a laboratory guest's init formats its report into this much
LAB_SERIAL_TAIL_BYTES: Final = 32 << 10  # the end of a guest's console that is kept: reports, or a panic
LAB_GUEST_BYTES_MIN: Final = 96 << 20  # Debian's cloud kernel boots in this much (measured)
LAB_INITRDS_KEPT: Final = 4  # 1 MB each, one per version of init that shares a cache folder
LAB_ERROR_LOG_BYTES_SHOWN: Final = 600  # the end of QEMU's error log that goes into a sentence
VMBUS_MESSAGE_BYTES_MAX: Final = 240  # the payload of a SynIC message slot
VMBUS_QUEUE_MAX: Final = 32  # answers waiting for the guest's slot; QEMU keeps 16, then refuses further posts
VMBUS_EVENTS_MAX: Final = 256  # bus events nobody has taken yet; then further posts are refused
VMBUS_CHANNELS_MAX: Final = 2047  # relids 1..2047: an event page has 2048 flags
GPADLS_MAX: Final = 1024  # of one bus at a time; a driver needs one or two for each channel
GPADL_PAGES_MAX: Final = 327_680  # 1280 MiB over all GPADLs of a bus, as Hyper-V since 2019 allows
HARDWARE_DATAGRAM_BYTES_MAX: Final = 65_536  # of the embedded guest's socket; the longest message is 28 bytes
WEIGHT_MAX: Final = 10_000  # the range of Hyper-V's weights, 1..10000
UNIX_PATH_BYTES_MAX: Final = 107  # sun_path of unix(7) without its closing zero
QMP_MESSAGE_BYTES_MAX: Final = 65_536  # what is asked of a monitor fits many times; only schemas are longer
QMP_NESTING_MAX: Final = 1024  # QEMU's own limit for JSON values inside JSON values
QMP_ERROR_TEXT_MAX: Final = 300  # characters of a monitor's error that are shown; QEMU's are a line
QMP_NAME_MAX: Final = 128  # of a state or a device's name that a monitor tells and that is shown
QMP_EVENTS_KEPT: Final = 1024  # events nobody has looked at; about ten minutes of a busy VM
QMP_READ_BYTES: Final = 65_536  # taken from a monitor's socket at a time
QMP_CLIENTS_MAX: Final = 64  # clients of one monitor at once; each holds a descriptor and a task
QMP_UNSENT_BYTES_MAX: Final = 1 << 20  # replies and events that a client has not read; then it is dropped
DM_BALLOON_CHUNK_PAGES: Final = 585_728  # of one balloon request; Windows guests ignore larger ones
DM_UNBALLOON_CHUNK_PAGES: Final = 524_288  # of one unballoon message: 2 GiB, as in QEMU
DM_HOT_ADD_CHUNK_PAGES: Final = 524_288  # of one hot add message: 2 GiB, as in QEMU
DM_HOT_ADD_ATTEMPTS: Final = 10  # of a guest short of resources, before it fails the request
DM_HOT_REMOVE_RANGES: Final = 509  # (4096 - 24) / 8
DM_JOURNAL_OPERATIONS: Final = 64  # of one guest that are kept; about a minute of a busy one
DM_REPLIES_PENDING: Final = 4  # answers waiting for ring room; a guest that keeps order has one
DM_EVENTS_PENDING: Final = 256  # events nobody has taken yet; then reports and anomalies are dropped
VM_FAULT_KINDS_MAX: Final = 64  # kinds of wrong behaviour of a guest that are counted apart
VM_NAME_MAX: Final = 64  # a VM's name is shown in lists and logs
VM_MEMORY_BYTES_MIN: Final = 32 << 20  # below that a guest has no memory to give
VM_MEMORY_BYTES_MAX: Final = 1 << 40  # a terabyte: its page set takes 32 MiB
VM_DIMM_SLOTS_MAX: Final = 256  # of DIMMs, as many as ACPI's memory hotplug has
VM_OBJECTS_MAX: Final = 1024  # memory backends of one VM; each holds a descriptor and a mapping
VM_ADDED_PIECES_MAX: Final = 4096  # of hot-added memory; so long a message stays at a millisecond
PREALLOC_MARGIN_PART: Final = 32  # of the host's memory, left to the host when memory is preallocated
PREALLOC_MARGIN_BYTES_MAX: Final = 1 << 30  # ... but no more than so much
VM_DESCRIPTORS_SPARE: Final = 128  # that no object may use: a reset and the monitor's clients need some
HARDWARE_SLOTS_MAX: Final = 509  # memory slots of an embedded guest, as many as every hypervisor has
HARDWARE_REQUESTS_MAX: Final = 1024  # of the host that a guest has not looked at: two a slot
VM_HYPERCALLS_PER_TURN: Final = 64  # before the monitor and the timers have their turn
VM_PACKETS_PER_TURN: Final = (
    16  # the same for ring packets, each of which may bring a discard of milliseconds
)
TRACE_LINE_BYTES_MAX: Final = (1 << 20) + 1024  # the longest ring packet (512 KiB) in hex, and its numbers
TRACE_FILE_BYTES_MAX: Final = 1 << 30  # of one capture or log: a guest makes it grow; days of a busy one
DISCARD_PENDING_PAGES_MAX: Final = 65_536  # 256 MiB given up that the host does not have back yet
DISCARD_BATCH_BLOCKS: Final = 512  # of one batch: 1 GiB of 2 MiB blocks, a tenth of a second
DISCARD_BATCH_RANGES: Final = 4096  # of one batch: a tenth of a second when each needs a call of its own
