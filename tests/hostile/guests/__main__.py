"""Play the cast of hostile guests: ``python -m tests.hostile.guests [--seconds S] [WORD ...]``."""

import sys

from tests.hostile.guests.guest import CAST
from tests.hostile.guests.program import options_of_guests
from tests.hostile.play import main

if __name__ == "__main__":
    sys.exit(main("guests", CAST, options_of_guests))
