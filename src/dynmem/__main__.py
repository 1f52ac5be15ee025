"""``python -m dynmem`` is the command line."""

import sys

try:
    from dynmem.cli import main
except KeyboardInterrupt:  # Ctrl-C while it is still being imported
    sys.exit(130)
main()
