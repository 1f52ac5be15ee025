"""`make accept-hosts`: dynmem comes to a host that runs VMs already; exit 1 when a figure is wrong.

Each step shows the guest's and the host's figures side by side, each figure with its rule beside it.
"""

import sys
from typing import Final

from tests.accept.scenes import main

SCENES: Final = {
    "day": "scan, observe, report, enforce, release on a host of other people's QEMUs",
}

if __name__ == "__main__":
    sys.exit(main("tests.accept.hosts", SCENES, __doc__))
