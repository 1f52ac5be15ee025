"""The process of a manager, as its reply to `status` describes it."""

from typing import Final

from dynmem.manager.api.messages import DaemonView

DAEMON: Final = DaemonView(
    version="1",
    pid=1,
    config="hosts.toml",
    state="state",
    uptime_s=1.0,
    sweeps=1,
    sweep_took_s=0.1,
    swept_ago_s=0.2,
    journal_problem=None,
)
