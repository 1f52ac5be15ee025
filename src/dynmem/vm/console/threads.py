"""Threads of a console."""

import threading
from collections.abc import Callable
from typing import Final

from dynmem.vm.platform import ShortageError

#: How long the end of a machine waits for what is still to be written.
CLOSING_S: Final = 1.0


def started(serve: Callable[[], None]) -> threading.Thread:
    """Return a thread that runs `serve`. Raises ShortageError."""
    # a daemon: one that a stopped terminal holds does not keep the program from its end
    thread = threading.Thread(target=serve, name="console", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise ShortageError(f"the console cannot be opened: {error}") from None
    return thread
