"""The installed command ``dynmem``: run it, or say in one sentence why the package cannot be imported.

It stands outside the package because `import dynmem` raises ImportError under ``python -O``, and a command
should end with a message and an exit code instead of a traceback. ``python -m dynmem`` does so by itself.
"""

import sys


def main() -> None:
    """Run the command line; exit with code 1 and a sentence when this Python cannot run it."""
    try:
        from dynmem.cli import main as run
    except ImportError as error:
        if error.name != "dynmem":  # something else is missing: that traceback is needed
            raise
        sys.exit(str(error))
    except KeyboardInterrupt:  # Ctrl-C while it is still being imported
        sys.exit(130)
    run()
