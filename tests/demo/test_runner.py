"""One run of the demonstration, where something in it fails."""

import threading
from pathlib import Path

from dynmem.demo.guests import EmbeddedGuest
from dynmem.demo.runner import Run
from dynmem.demo.scenario import EMBEDDED


class Unstartable(EmbeddedGuest):
    """A guest whose program can't be started, in a way that nobody has foreseen."""

    def start(self, seconds_gone: float, duration_s: float) -> None:
        """Fail as the system does."""
        raise OSError(f"no more processes ({seconds_gone}, {duration_s})")


def test_whatever_fails_in_the_thread_that_starts_guests_ends_the_run(tmp_path: Path) -> None:
    run = Run(EMBEDDED, seed=1, duration_s=5, static=True)
    guest = Unstartable(EMBEDDED.members[0], tmp_path, 1)
    starter = threading.Thread(target=run._start_all, args=([guest], threading.Event(), threading.Event()))
    starter.start()
    starter.join()
    assert isinstance(run._failure, OSError)
