"""What the embedded guest is started with: a workload, and whose habits its balloon driver has.

Both are one text, ``NAME,KEY=VALUE,...``, as in module `curve`, with one key more: ``habits``, which is
``linux`` (the default), ``windows`` (its newest release) or ``windows-2016`` and the like. The bus driver
knows VMBus 2.4 and newer, so releases before 2012 cannot be played.
"""

from typing import Final, NamedTuple

from dynmem.dm.habits import LINUX, Habits
from dynmem.dm.windows import WINDOWS, Release, windows
from dynmem.errors import ConfigError, quoted
from dynmem.guest.curve import Load, parse_load
from dynmem.wire.versions import VERSION_WIN8

_KEY: Final = "habits="
#: The values of ``habits``.
KINDS: Final = {
    "linux": LINUX,
    "windows": WINDOWS,
    **{
        f"windows-{release.value}": windows(release)
        for release in Release
        if windows(release).newest_bus >= VERSION_WIN8
    },
}


class Options(NamedTuple):
    """What the guest is."""

    load: Load
    habits: Habits = LINUX


def parse_options(text: str) -> Options:
    """Return what a text says. Raises ConfigError, which names the key and its values."""
    name, *settings = text.split(",")
    kinds = [setting.removeprefix(_KEY) for setting in settings if setting.startswith(_KEY)]
    load = parse_load(",".join([name, *(setting for setting in settings if not setting.startswith(_KEY))]))
    kind = kinds[-1] if kinds else "linux"
    if kind not in KINDS:
        raise ConfigError(f"workload habits: {quoted(kind)} is not one of {', '.join(KINDS)}")
    return Options(load, KINDS[kind])
