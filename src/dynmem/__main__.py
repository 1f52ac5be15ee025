"""``python -m dynmem`` is the command line."""

from dynmem.cli import main

main()
