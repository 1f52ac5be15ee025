"""Where a manager's socket and state are unless its configuration says otherwise.

Imports nothing that costs time: `dynmem status` needs it.
"""

import os
from pathlib import Path


def default_socket() -> Path:
    """Return the socket on which a manager of this user listens."""
    if os.geteuid() == 0:
        return Path("/run/dynmem/api.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Path(runtime) / "dynmem" / "api.sock"


def default_state() -> Path:
    """Return the folder in which a manager of this user keeps its journal."""
    if os.geteuid() == 0:
        return Path("/var/lib/dynmem")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "dynmem"
