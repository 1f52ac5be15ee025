"""Play the cast of hostile kernels: ``python -m tests.hostile.kernels [--seconds S] [WORD ...]``."""

import sys

from tests.hostile.kernels.cast import CAST, options_of_kernels
from tests.hostile.play import main

if __name__ == "__main__":
    sys.exit(main("kernels", CAST, options_of_kernels))
