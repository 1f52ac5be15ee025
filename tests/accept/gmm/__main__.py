"""`make accept-gmm`: scenes of the Global Memory Manager in real processes; exit 1 when a figure is wrong.

Each figure has its rule beside it. Named, only those scenes are played.
"""

import sys
from typing import Final

from tests.accept.scenes import main

SCENES: Final = {
    "refusal": "an over-full host refuses a VM",
    "dead_vm": "a killed VM's pages come back",
    "dead_manager": "a killed manager comes back with equal books",
    "shortage": "a shortage is answered by priority",
    "left_behind": "shared pages that a dead process leaves behind are reclaimed",
    "duplicates": "duplicates are found across two Linux guests under QEMU",
}

if __name__ == "__main__":
    sys.exit(main("tests.accept.gmm", SCENES, __doc__))
