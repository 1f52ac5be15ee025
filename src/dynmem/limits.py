"""The bounds on what a guest, a peer or a client can make grow, by room, each with its reason.

A bound that keeps a guest, a monitor, a client or a file from taking memory, descriptors or time without end
stands here, or beside the code where it belongs to one file only. Sizes of wire formats, and figures of a
policy, stand beside the code that uses them.
"""

from typing import Final

# -- pages: what a page range on the wire can express --

# 24 bits of page_cnt.
PAGE_RANGE_PAGES_MAX: Final = (1 << 24) - 1
# 40 bits of start_page: the 52-bit addresses of AMD64.
GUEST_PAGE_MAX: Final = (1 << 40) - 1

# -- dm: the Dynamic Memory Protocol --

# Hyper-V and Linux build balloon messages in one page, and so do we. What a guest sends may be longer.
DM_MESSAGE_BYTES_MAX: Final = 4096
# 16 bytes before the ranges of 8 bytes each.
DM_RANGES_PER_MESSAGE: Final = 510
# The same with 24 bytes before them.
DM_HOT_REMOVE_RANGES: Final = 509
# Per balloon request. Windows guests ignore larger ones.
DM_BALLOON_CHUNK_PAGES: Final = 585_728
# Per unballoon message: 2 GiB, as in QEMU.
DM_UNBALLOON_CHUNK_PAGES: Final = 524_288
# Per hot add message: 2 GiB, as in QEMU.
DM_HOT_ADD_CHUNK_PAGES: Final = 524_288
# How often a guest short of resources tries before it fails the request.
DM_HOT_ADD_ATTEMPTS: Final = 10
# Operations kept per guest: about a minute of a busy one.
DM_JOURNAL_OPERATIONS: Final = 64
# Replies that wait for ring room. A guest that keeps order has one.
DM_REPLIES_PENDING: Final = 4
# Events not yet taken. Then reports and anomalies are dropped.
DM_EVENTS_PENDING: Final = 256

# -- vmbus: the bus and its channels --

# The payload of a SynIC message slot.
VMBUS_MESSAGE_BYTES_MAX: Final = 240
# Replies that wait for the guest's slot. QEMU keeps 16, then rejects further posts.
VMBUS_QUEUE_MAX: Final = 32
# Bus events not yet taken. Then further posts are rejected.
VMBUS_EVENTS_MAX: Final = 256
# relids 1..2047: an event page has 2048 flags.
VMBUS_CHANNELS_MAX: Final = 2047
# Per bus at a time. A driver needs one or two for each channel.
GPADLS_MAX: Final = 1024
# Between two times that one broken channel is rescinded and offered again. A sound driver breaks none.
REOFFER_PAUSE_NS_MAX: Final = 64 * 1_000_000_000
# 1280 MiB over all GPADLs of a bus, as Hyper-V since 2019 allows.
GPADL_PAGES_MAX: Final = 327_680

# -- memory: discards --

# 256 MiB given up that the host has not reclaimed yet.
DISCARD_PENDING_PAGES_MAX: Final = 65_536
# Ranges of new messages that wait to be merged into the pending ones, in bytes: 8192 ranges.
DISCARD_NEW_BYTES_MAX: Final = 1 << 16
# Per batch: 1 GiB of 2 MiB blocks, a tenth of a second.
DISCARD_BATCH_BLOCKS: Final = 512
# Per batch: a tenth of a second when each range needs a call of its own.
DISCARD_BATCH_RANGES: Final = 4096
# Huge pages that the host refuses one by one in a reservation. Then it has none left.
HUGE_PAGE_REFUSALS_MAX: Final = 1024
# The part of the host's memory, and its greatest size, that preallocation leaves to the host.
PREALLOC_MARGIN_PART: Final = 32
PREALLOC_MARGIN_BYTES_MAX: Final = 1 << 30

# -- qmp: monitors, both ends --

# A request to our monitor: a path, the longest argument, has 4096.
QMP_MESSAGE_BYTES_MAX: Final = 8192
# Its tokens: QEMU's nesting limit there and back, and a few. Unfinished they take 80 KiB.
QMP_TOKENS_MAX: Final = 2304
# Read from a client of our monitor ahead of what is served.
QMP_READ_AHEAD_BYTES: Final = 4096
# Of that, what is read before another client has its turn: a tenth of a millisecond, or two of mistakes.
QMP_PIECE_BYTES: Final = 128
# What a monitor may reply: 256 DIMMs with ids of a thousand characters are 600 KiB.
QMP_REPLY_BYTES_MAX: Final = 1 << 20
# Values in what a command returns. Decoding them takes 20 ms.
QMP_VALUES_MAX: Final = 16_384
# QEMU's own limit for JSON values inside JSON values.
QMP_NESTING_MAX: Final = 1024
# Characters of a monitor's error that are shown. QEMU's errors are one line.
QMP_ERROR_TEXT_MAX: Final = 300
# Characters of a state, reported by a monitor, that are shown.
QMP_NAME_MAX: Final = 128
# Characters of a device's QOM path. QEMU does not limit ids; management tools use up to about a hundred.
QMP_PATH_MAX: Final = 4096
# Events not yet read: about ten minutes of a busy VM.
QMP_EVENTS_KEPT: Final = 1024
# The same in bytes, as they came.
QMP_EVENTS_BYTES_MAX: Final = 1 << 18
# Read from a monitor's socket at a time.
QMP_READ_BYTES: Final = 65_536
# Lines of one monitor before the others have their turn.
QMP_LINES_PER_TURN: Final = 64
# What a client may have sent and be sent before it waits like those who always do: a hundred short questions.
QMP_SAVED_BYTES_MAX: Final = 16_384
# Clients of one monitor at once. Each holds a descriptor and a task. One more takes another one's place.
QMP_CLIENTS_MAX: Final = 64
# Events, and a reply, that a client has not read: a thousand. Then it is dropped.
QMP_UNSENT_BYTES_MAX: Final = 1 << 18
# sun_path of unix(7) without its closing zero.
UNIX_PATH_BYTES_MAX: Final = 107

# -- vm: a machine --

# A VM's name is shown in lists and logs.
VM_NAME_MAX: Final = 64
# A smaller guest has no memory to give.
VM_MEMORY_BYTES_MIN: Final = 32 << 20
# A terabyte: its page set takes 32 MiB.
VM_MEMORY_BYTES_MAX: Final = 1 << 40
# As many as the guest is told that there can be; each is a thread.
VM_PROCESSORS_MAX: Final = 64
# Slots for DIMMs, as many as ACPI's memory hotplug has.
VM_DIMM_SLOTS_MAX: Final = 256
# Reports of a guest on a slot that are passed on until something happens to the slot: Linux sends two.
VM_DIMM_REPORTS_MAX: Final = 16
# Memory backends of one VM. Each holds a descriptor and a mapping.
VM_OBJECTS_MAX: Final = 1024
# Pieces that a guest can cut hot-added memory into: with this many a message still takes a millisecond.
VM_ADDED_PIECES_MAX: Final = 4096
# Runs of one message of pages that are traced, 50 us each: real guests' messages have at most 1144, a hostile
# guest's could have 2 million.
VM_REMOVED_RUNS_TRACED_MAX: Final = 2048
# Huge pages of the reserved pool that one message may find missing before it goes without.
VM_LACKING_BLOCKS_MAX: Final = 1024
# Kinds of wrong behaviour of a guest that are counted separately.
VM_FAULT_KINDS_MAX: Final = 64
# Files that the memory of hv-balloon is cut into: one for each slot, of which memory devices use 256 in all.
VM_SLOT_FILES_MAX: Final = 256
# Descriptors that no object may use: a reset and the monitor's clients need some.
VM_DESCRIPTORS_SPARE: Final = 128
# Nanoseconds of a turn, after which the monitor and the timers have theirs. What has begun is finished first.
VM_TURN_NS: Final = 2_000_000
# The same in bytes of ring packets: half of the longest one.
VM_BYTES_PER_TURN: Final = 262_144
# The same in hypercalls.
VM_HYPERCALLS_PER_TURN: Final = 64
# The same in ring packets, each of which may cause a discard of milliseconds.
VM_PACKETS_PER_TURN: Final = 16
# Crashes that a guest reports between two resets: its own, and those of the kernel that saves its memory.
VM_CRASHES_REPORTED_MAX: Final = 8
# Of the log that a guest reports with a crash: a page, as in the specification.
VM_CRASH_TEXT_BYTES_MAX: Final = 4096
# Bytes of free pages that are discarded in one call of a guest, which waits meanwhile: twice the most that
# Linux reports at once. A single range may be larger.
VM_REPORTED_BYTES_PER_CALL: Final = 256 << 20
# Bytes that a guest's console carries in a second: a hundred times a serial line.
CONSOLE_BYTES_PER_S: Final = 1 << 20
# The file of a console, and the one before it. Ours writes 5 MiB in an hour.
CONSOLE_FILE_BYTES_MAX: Final = 16 << 20
# A console's output that is not written yet: all of a kernel's start, whose lines come faster than a reader.
CONSOLE_UNWRITTEN_BYTES_MAX: Final = 1 << 18
# Its input that the guest has not read yet: what a person pastes.
CONSOLE_UNREAD_BYTES_MAX: Final = 1 << 16
# Of a guest's standard error that are logged at once, and after that in a minute: 1.5 MiB in a day.
GUEST_LOG_BYTES_MAX: Final = 1 << 18
GUEST_LOG_BYTES_PER_MINUTE: Final = 1024
# Of a line of it. A longer one is broken.
GUEST_LOG_LINE_MAX: Final = 1024
# The embedded guest's socket. Its longest message is 28 bytes.
HARDWARE_DATAGRAM_BYTES_MAX: Final = 65_536
# What may wait unread in it: some 20 messages as the kernel counts them, each with a descriptor in flight.
HARDWARE_UNREAD_BYTES: Final = 8192
# Memory slots of an embedded guest, as many as every hypervisor has.
HARDWARE_SLOTS_MAX: Final = 509
# Requests of the host that a guest has not looked at: two per slot.
HARDWARE_REQUESTS_MAX: Final = 1024

# -- guest: the embedded guest --

# Addresses reserved for RAM and device memory. They are never committed.
GUEST_ADDRESS_BYTES_MAX: Final = 1 << 40
# Warnings about the host in one guest's life. The next ones would say the same.
GUEST_WARNINGS_MAX: Final = 20
# Times a driver posts a message again while the host has no room for it.
GUEST_POST_ATTEMPTS_MAX: Final = 100

# -- trace: captures and logs --

# The longest ring packet (512 KiB) in hex, and its numbers.
TRACE_LINE_BYTES_MAX: Final = (1 << 20) + 1024
# One capture or log, which a guest makes grow: days of a busy one.
TRACE_FILE_BYTES_MAX: Final = 1 << 30

# -- manager: the daemon --

# More than any host runs. Bounds every table of the manager.
MANAGER_VMS_MAX: Final = 1000
# A thousand VMs with every key set are about 300 KiB.
MANAGER_CONFIG_BYTES_MAX: Final = 1 << 20
# One for each of a hundred tools.
MANAGER_DROP_INS_MAX: Final = 100
# A VM's name is a key, a file name and a column.
MANAGER_NAME_MAX: Final = 64
# A command of the operator's that needs more words is a script.
COMMAND_WORDS_MAX: Final = 32
# What any program can be started with, beside its environment.
COMMAND_WORD_BYTES_MAX: Final = 4096
# To save a VM of many GiB to a slow disk takes this long; a command that hangs ends then. Seconds.
COMMAND_S_MAX: Final = 120.0
# Per VM: its monitor, its pidfd, one to read /proc with, and two for its lock.
MANAGER_DESCRIPTORS_PER_VM: Final = 5
# Besides: API clients, journal, epoll, the threads that read /proc.
MANAGER_DESCRIPTORS: Final = 256
# Queries that a look sends to a monitor before it wants the replies: what the look before it asked.
MANAGER_QUERIES_AHEAD_MAX: Final = 32
# Memory devices in a monitor's reply: more than a machine has slots.
MANAGER_DEVICES_MAX: Final = 1024
# No VM has more, since physical addresses have 52 bits (AMD64): guests and monitors may lie.
MANAGER_FIGURE_BYTES_MAX: Final = 1 << 52
# A monitor that another client holds is tried twice a minute.
RECONNECT_PAUSE_S_MAX: Final = 30.0
# Descriptors of a VM process that are searched for its RAM: a QEMU with many queues has thousands.
PROC_DESCRIPTORS_MAX: Final = 65_536
# Mappings of a VM process that are searched for its RAM: twice as many as the kernel allows by default.
PROC_MAPPINGS_MAX: Final = 131_072
# Large files among them, each of which is looked at: a machine has at most 256 DIMMs.
PROC_RAM_FILES_MAX: Final = 1024
# A file of a cgroup holds one number, or the word max.
CGROUPS_FILE_BYTES_MAX: Final = 64
# The range of Hyper-V's weights is 1..10000.
WEIGHT_MAX: Final = 10_000
# The longest request names one VM.
API_REQUEST_BYTES_MAX: Final = 4096
# A status of a thousand VMs is about 1.5 MiB.
API_REPLY_BYTES_MAX: Final = 8 << 20
# People and scripts at once.
API_CLIENTS_MAX: Final = 64
# Scrapers at once: a host has two or three.
METRICS_CLIENTS_MAX: Final = 32
# What a scraper's request and headers take, many times over.
METRICS_REQUEST_BYTES_MAX: Final = 8192
# VMs about to start at once.
API_RESERVATIONS_MAX: Final = 64
# A day: a reservation is for a VM that is about to start.
API_WAIT_NS_MAX: Final = 24 * 3600 * 1_000_000_000
# A month: whoever wants a VM left alone for longer releases it, or takes it out of the file.
PAUSE_NS_MAX: Final = 31 * 24 * 3600 * 1_000_000_000
# About a week of a busy host, 4 MiB.
JOURNAL_ROWS_MAX: Final = 20_000
# Characters kept of a reason or an outcome.
JOURNAL_TEXT_MAX: Final = 500
# All rows at their longest are 40 MiB.
JOURNAL_BYTES_MAX: Final = 1 << 28
# Kept on the disk for it: some thousand actions.
JOURNAL_ROOM_BYTES: Final = 1 << 20

# -- history: what the manager keeps of the past --

# A thousand VMs for a month (docs/history.md); beyond that it thins sooner.
HISTORY_BYTES_MAX: Final = 1 << 30
# Less holds no day of a few VMs.
HISTORY_BYTES_MIN: Final = 16 << 20
# The part of it for events.
HISTORY_EVENTS_PART: Final = 4
# Left to the journal, and to whoever else writes to that disk: below this, history makes itself smaller.
HISTORY_DISK_FREE_BYTES: Final = 256 << 20
# Of one VM over an hour of sweeps, ten a second, decompressed.
HISTORY_BLOCK_BYTES_MAX: Final = 16 << 20
# The rows of it: 36,000 sweeps, and then some. Each column that a reader wants takes eight bytes a row.
HISTORY_BLOCK_ROWS_MAX: Final = 1 << 16
# Sweeps that wait for a disk that is slow or full: of a thousand VMs, 90 MiB. Then the oldest are given up.
HISTORY_WAITING_MAX: Final = 60
# Events that wait likewise: a thousand VMs that all move twice.
HISTORY_EVENTS_WAITING_MAX: Final = 2000
# Characters of a sentence.
HISTORY_TEXT_MAX: Final = 500
# Files that are no history and were set aside.
HISTORY_SET_ASIDE_MAX: Final = 9

# -- simulation: loads from files --

# A file that describes a load by hand.
LOAD_FILE_BYTES_MAX: Final = 1 << 20
# VMs of one load: more than a host has.
SIMULATED_VMS_MAX: Final = 2000
# The length of a load: what a history keeps.
SIMULATED_S_MAX: Final = 400 * 86_400
# Rows of one load, 40 bytes each: a thousand VMs for a day of minutes, or sixty for a month.
SIMULATED_ROWS_MAX: Final = 3_000_000
# A line of a trace: five numbers, or a VM's settings.
LOAD_LINE_BYTES_MAX: Final = 1024

# -- web: the page --

# Browsers, each with six connections at most, and a proxy's.
WEB_CONNECTIONS_MAX: Final = 128
# Tabs that follow the live stream.
WEB_READERS_MAX: Final = 32
# A request's line and headers: a token and what browsers send are 2 KiB.
WEB_HEAD_BYTES_MAX: Final = 16 << 10
# A path with its question: the longest names a VM and four numbers.
WEB_TARGET_BYTES_MAX: Final = 2048
# What an act says.
WEB_BODY_BYTES_MAX: Final = 4096
# Rows of a plot: more than a screen has columns.
WEB_POINTS_MAX: Final = 2000
# Events in one reply.
WEB_EVENTS_MAX: Final = 1000
# Readings of the history that wait for their turn: those of three browsers and more.
WEB_READINGS_MAX: Final = 32
# Seconds that one reading may take, and that it may wait for its turn.
WEB_READING_S_MAX: Final = 5.0
# Events that a slow reader of the live stream has not been sent yet; then the oldest are left out.
WEB_HAPPENED_MAX: Final = 200
# A file of the page, and all of them: charts and their style are 60 KiB.
WEB_FILE_BYTES_MAX: Final = 1 << 20
WEB_FILES_MAX: Final = 64
# Characters of a token: what 128 bits take, and much more than anybody needs.
WEB_TOKEN_MIN: Final = 16
WEB_TOKEN_MAX: Final = 512

# -- chunks: callers of the Global Memory Manager in other processes --

# One request, and one reply: 8000 page descriptors. It fits the buffer that the kernel gives a socket.
CHUNK_REQUEST_BYTES_MAX: Final = 1 << 17
# Callers at once, with two descriptors each.
CHUNK_CLIENTS_MAX: Final = 256
# A VM's name, as bytes: the first thing that a caller sends.
CHUNK_NAME_BYTES_MAX: Final = 64

# -- lab: real Linux guests under QEMU --

# The guest's init formats its report into this much.
LAB_REPORT_LINE_BYTES_MAX: Final = 1024
# The end of a guest's console that is kept: reports, or a panic.
LAB_SERIAL_TAIL_BYTES: Final = 32 << 10
# Debian's cloud kernel boots in this much (measured).
LAB_GUEST_BYTES_MIN: Final = 96 << 20
# 1 MB each, one per version of init that shares a cache folder.
LAB_INITRDS_KEPT: Final = 4
# The end of QEMU's error log that is quoted in an error.
LAB_ERROR_LOG_BYTES_SHOWN: Final = 600

# -- discovery and scan: other people's VMs --

# Options of one VM that are looked at: machines have hundreds of devices.
SCAN_OPTIONS_MAX: Final = 8192
# The kernel's list of unix sockets: a busy desktop has a thousand, of up to a hundred bytes each.
SCAN_SOCKETS_BYTES_MAX: Final = 1 << 24
# A file of Proxmox's about one VM, with all its snapshots. What is wanted stands at its top.
SCAN_PROXMOX_BYTES_MAX: Final = 1 << 18
# VMs of which it has files.
SCAN_VMS_MAX: Final = 1000
# Lines of /proc/PID/smaps: 25 for each mapping, of which the kernel allows 65,530 by default.
SCAN_SMAPS_LINES_MAX: Final = 1_638_250

# -- fit: snapshots of other hosts --

# A thousand VMs, each with a week of hours, are about 1 MiB.
FIT_SNAPSHOT_BYTES_MAX: Final = 4 << 20
# Hosts in one answer: more than one team runs. Each takes 5 KiB.
FIT_HOSTS_MAX: Final = 20_000
