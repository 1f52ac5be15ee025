"""Write docs/windows.md, the documented habits of Windows guests: ``python -m scripts.windows [--print]``."""

from collections.abc import Iterator

from scripts.page import finish

from dynmem.dm.windows import HABITS, Habit, Release

INTRO = """\
# Windows guests: documented habits only

Made by `python -m scripts.windows` from `dynmem.dm.windows`; edit that.

**No Windows guest has run here.** This is what has been published about the Dynamic Memory driver of Windows,
habit by habit. Our guest end plays each of them against our host (`tests/dm/test_windows_starts.py`,
`tests/dm/test_windows_memory.py`), and the simulator's guest `windows` has those that matter to a manager.
What Windows does beyond that, and whether the sources are right, only a capture can show: see
`.github/ISSUE_TEMPLATE/capture.md`.

    dynmem vm -m 512M --device hv-balloon,status-report=on,x-post-init-wait=50000 \\
        --guest embedded,habits=windows

`habits=windows` is the newest release of the table, `habits=windows-2016` an older one. Without the wait, the
guest crashes on the first request, as Windows Server 2019 does.

| habit | a Windows guest ... | releases | source |
|---|---|---|---|"""


def _releases(habit: Habit) -> str:
    """Return the releases that have a habit, in a few words."""
    newest = list(Release)[-1]
    if habit.since is habit.until:
        when = habit.since.value
    elif habit.until is newest:
        when = f"{habit.since.value} on"
    else:
        when = f"{habit.since.value} to {habit.until.value}"
    return f"{when}, if {habit.when.value}" if habit.when is not None else when


def _rows() -> Iterator[str]:
    for habit in HABITS:
        yield f"| `{habit.name}` | {habit.does} | {_releases(habit)} | {habit.source} |"


def render() -> str:
    """The whole document."""
    return "\n".join([INTRO, *_rows()]) + "\n"


if __name__ == "__main__":
    finish("windows.md", render)
