"""Every bound of the product in one table, each with its reason.

Whatever a guest, a peer or a file can make grow is bounded by a name from here.
"""

from typing import Final

DM_MESSAGE_BYTES_MAX: Final = 4096  # Hyper-V and Linux build balloon messages in one page
DM_RANGES_PER_MESSAGE: Final = 510  # (4096 - 16) / 8
PAGE_RANGE_PAGES_MAX: Final = (1 << 24) - 1  # 24 bits of page_cnt
GUEST_PAGE_MAX: Final = (1 << 40) - 1  # 40 bits of start_page, the AMD64 limit
MANAGER_VMS_MAX: Final = 1000  # more than any single host runs; bounds every table of the manager
MANAGER_CONFIG_BYTES_MAX: Final = 1 << 20  # a thousand VMs with every key set are about 300 KiB
MANAGER_NAME_MAX: Final = 64  # a VM's name is a key, a file name and a column
API_REQUEST_BYTES_MAX: Final = 4096  # the longest request names one VM
API_REPLY_BYTES_MAX: Final = 8 << 20  # a status of a thousand VMs is about 1 MiB
API_CLIENTS_MAX: Final = 64  # people and scripts at once
API_RESERVATIONS_MAX: Final = 64  # VMs about to start at once
JOURNAL_ROWS_MAX: Final = 20_000  # about a week of a busy host, 4 MiB
JOURNAL_TEXT_MAX: Final = 500  # characters of a reason or an outcome that are kept
RECONNECT_PAUSE_S_MAX: Final = 30.0  # a monitor that somebody else holds is looked at twice a minute
PROC_DESCRIPTORS_MAX: Final = 4096  # descriptors of a VM process that are looked through for its RAM
