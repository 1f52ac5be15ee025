"""The file of the manager's configuration: read, parsed, and each table given its types.

    [host]
    budget = "8GiB"                 # what all VMs together may hold
    slush = "256MiB"                # the part of it that is never granted (default 256MiB)
    ready = "auto"                  # kept for whoever grows next; a size, or as needed (default auto)
    pool = "0"                      # kept for VMs about to start, so that a reservation is ready at once

    [manager]
    mode = "observe"                # changes nothing (default); "advise" prints commands, "enforce" acts
    period = "1s"                   # 100ms to 1h (default 1s)
    statistics = false              # true: guests are asked for their statistics in observe and advise, too
    socket = "/run/dynmem/api.sock" # where `dynmem status` connects
    state = "/var/lib/dynmem"       # the private folder of the journal and the history
    history = "1GiB"                # the most that the history may take (default 1GiB); "0": none is kept
    oom_score = false               # true: by priority, whom the kernel ends when the host is out of memory
    memory_low = false              # true: by priority, whose memory the kernel reclaims last
    metrics = "127.0.0.1:9737"      # where Prometheus reads; empty: nowhere (default)
    libvirt = "qemu:///system"      # manage the domains of this libvirt that say how (default: none)

    [proxmox]                       # where things are on such a host; seldom needed
    files = "/etc/pve/qemu-server"
    qm = "/usr/sbin/qm"

    [[vm]]                          # once per VM
    name = "web"                    # letters, digits, dot, dash, underscore
    qmp = "/run/vm/web.qmp"         # its monitor
    monitor = "auto"                # "own": for dynmem alone; "borrowed": another program's, only visited
    minimum = "512MiB"              # it is never shrunk below
    maximum = "4GiB"
    buffer = 20                     # percent on top of its demand (default 20)
    weight = 5000                   # 1 to 10000, divides memory within a priority (default 5000)
    priority = "normal"             # low, normal or high (default normal)
    takeover = false                # true: enforce mode takes it over from Proxmox's own balloon manager
    may_stop = false                # true: QEMU's hv-balloon is changed too, stopped for a moment each time
    on_shortage = "wait"            # or "squeeze": a VM of higher priority may have what this one uses
    on_out_of_memory = ["/usr/bin/virsh", "managedsave"] # saves or ends it, for one of higher priority

    [[vm]]
    name = "db"
    libvirt = "db"                  # in place of qmp: a domain of manager.libvirt, by its name or UUID
    minimum = "1GiB"
    maximum = "8GiB"

Whether the values make sense together is for `config` to say. Any mistake is a ConfigError that names the
file, the key, the value and what to do.
"""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from dynmem.errors import ConfigError, quoted
from dynmem.limits import MANAGER_CONFIG_BYTES_MAX, MANAGER_NAME_MAX
from dynmem.manager.step.facts import Mode, MonitorKind
from dynmem.policy import MemorySettings, OnShortage, Priority
from dynmem.units import format_size

_DEFAULTS: Final = MemorySettings()
#: The default of host.slush.
SLUSH: Final = "256MiB"
#: The default of host.ready and vm.monitor: what the manager finds right.
AUTO: Final = "auto"
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MANAGER_NAME_MAX - 1}}}")

Size = str | int


class HostTable(msgspec.Struct, forbid_unknown_fields=True):
    """The host.

    Attributes:
        budget: What the guests of all VMs together may hold; what VM processes hold besides is not counted.
        slush: The part of the budget that is never granted to any VM; less than the budget.
        ready: What is kept ready for whoever grows next: granted at once to a guest that needs it to live,
            and never as comfort. "auto" follows the growth that is seen, from 1/32 to 1/8 of what the VMs can
            share; "0" keeps nothing.
        pool: What is kept for VMs about to start, out of buffers and headroom, so that `dynmem reserve` of as
            much is ready at once; filled again once they run. "0" keeps nothing, and others give when a
            reservation is made.
    """

    budget: Size
    slush: Size = SLUSH
    ready: Size = AUTO
    pool: Size = "0"


class ManagerTable(msgspec.Struct, forbid_unknown_fields=True):
    """The manager. The table may be left out.

    Attributes:
        mode: "observe" plans and sends nothing that changes anything; "advise" does the same, and prints for
            each change the command that an operator would type; "enforce" acts.
        period: From one look at the VMs to the next: 100ms to 1h. Its unit is ms, s, min or h; without one
            it is in seconds.
        statistics: Whether guests with virtio-balloon may be asked for their statistics every period in
            "observe" and "advise" as well, as they are in "enforce": that is the only setting of a VM that is
            changed then, and without it such a VM mostly gives no signal. `dynmem release` puts it back.
        socket: Where `dynmem status` connects: an absolute path of at most 107 bytes. Default: as root
            `/run/dynmem/api.sock`, otherwise `$XDG_RUNTIME_DIR/dynmem/api.sock`.
        state: The private folder of the journal and the history: an absolute path. Default: as root
            `/var/lib/dynmem`, otherwise `~/.local/state/dynmem` (`$XDG_STATE_HOME/dynmem` if that is set).
        metrics: The address and port on which metrics are served to Prometheus, such as "127.0.0.1:9737" or
            "[::1]:9737"; port 0 takes a free one, which the log names. Every program that reaches it can read
            the names and sizes of all VMs, and change nothing. Empty, the default: nowhere.
        status_socket: A second socket, on which other users can ask for the status and the figures of the
            last step, and for nothing else: an absolute path in a folder that they can enter and not
            write to. Default: none.
        status_group: The group whose members may connect there. Empty, the default: everybody who reaches it.
        libvirt: The libvirt of this host, as a URI such as `qemu:///system` or `qemu:///session`. Each of its
            domains that has a policy in its `<metadata>` is managed, and comes and goes while the manager
            runs ([On libvirt](libvirt.md)). Default: none.
        history: The most that [the history](history.md) may take on disk; beyond it, it is thinned sooner. At
            least 16MiB, or "0": none is kept, and a file that is there stays as it is.
        oom_score: Whether, in "enforce", `oom_score_adj` of each VM's process is raised by its priority, so
            that the kernel ends a VM of low priority first when the host is out of memory: to 500 for low and
            250 for normal. High stays as it is, and so does what is as high or below 0. `dynmem release` puts
            back what was there.
        memory_low: Whether, in "enforce", *memory.low* of each VM's own cgroup is raised by its priority, so
            that the kernel reclaims elsewhere first: to the maximum of a VM of high priority and the minimum
            of a normal one; undone likewise. It needs version 2 of cgroups that may be written to (in a
            systemd unit, `ProtectControlGroups=no`), and works only as far as the groups above have it too.
    """

    mode: Mode = "observe"
    period: str | int | float = "1s"
    statistics: bool = False
    socket: str = ""
    state: str = ""
    metrics: str = ""
    status_socket: str = ""
    status_group: str = ""
    libvirt: str = ""
    history: Size = "1GiB"
    oom_score: bool = False
    memory_low: bool = False


class ProxmoxTable(msgspec.Struct, forbid_unknown_fields=True):
    """Where things are on a Proxmox host. The table may be left out.

    Attributes:
        files: The folder of the VMs' files: an absolute path.
        qm: The command that changes them: an absolute path.
    """

    files: str = "/etc/pve/qemu-server"
    qm: str = "/usr/sbin/qm"


class VmTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One virtual machine; write it once for each, at most 1000 times.

    Attributes:
        name: Its name: up to 64 letters, digits, dots, dashes and underscores, beginning with a letter or
            digit.
        qmp: The socket of its monitor: an absolute path of at most 107 bytes. Every VM has this or `libvirt`.
        monitor: "own": dynmem alone uses this monitor, and stays connected. "borrowed": it is another
            program's, which is to find it free: dynmem connects when nobody else is connected, a few
            times a second at most and for 100 ms at most. "auto": borrowed where the path is that of
            Proxmox's or libvirt's own monitor, else own.
        minimum: The VM is never shrunk below this: at least 16 MiB, at most budget less slush; rounded up to
            a page of 4 KiB.
        maximum: The VM is never grown above this; rounded down to a page of 4 KiB.
        buffer: Percent on top of its demand: 0 to 1000.
        weight: 1 to 10000: divides memory among the VMs of one priority.
        priority: "high" is served first, "low" last when not everything fits.
        on_shortage: When a VM of higher priority lacks what it uses and this one has nothing to spare: "wait"
            leaves it what it uses, and "squeeze" takes of that, down to its minimum; its guest swaps or
            kills processes then.
        may_stop: Whether the VM's processors may be stopped for the moment in which its target is set, for as
            long as QEMU takes to write out what its disks hold. QEMU's own hv-balloon can abort, and with it
            the VM, when a target is set while its guest runs; without this such a VM is watched, and left as
            it is. No other VM is ever stopped.
        takeover: Whether, in "enforce", a VM that Proxmox's own balloon manager moves is taken over: its
            `shares` are set to 0, with `qm`, and set as they were when it is released or this is taken back.
            Without it such a VM is watched, and left as it is, until `shares` is 0.
        on_out_of_memory: The program, by its absolute path, and its arguments, to save or end this VM when a
            VM of higher priority has lacked what it uses for 10 s and no balloon can help; the VM's name
            follows as the last argument. It runs without a shell, as the manager's user, for 120 s at most,
            once for each start of this VM, and only in "enforce". Low comes before normal, and the largest
            first; a VM of priority high cannot have one. Without it, the VM is never interrupted.
        libvirt: The domain that this is, of the libvirt in `[manager]`, by its name or its UUID. It is
            reached by libvirt's API, and what stands here counts in place of its `<metadata>`.
    """

    name: str
    qmp: str = ""
    minimum: Size
    maximum: Size
    monitor: Literal["auto", MonitorKind] = "auto"
    buffer: int = _DEFAULTS.buffer_percent
    weight: int = _DEFAULTS.weight
    priority: Priority = _DEFAULTS.priority
    on_shortage: OnShortage = "wait"
    may_stop: bool = False
    takeover: bool = False
    on_out_of_memory: list[str] = []
    libvirt: str = ""


class File(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    host: HostTable
    vm: list[VmTable] = []
    manager: ManagerTable = msgspec.field(default_factory=ManagerTable)
    proxmox: ProxmoxTable = msgspec.field(default_factory=ProxmoxTable)


#: The tables of the file by their names.
TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "host": HostTable,
    "manager": ManagerTable,
    "proxmox": ProxmoxTable,
    "vm": VmTable,
}
#: How each begins in the file.
HEADINGS: Final = {"host": "[host]", "manager": "[manager]", "proxmox": "[proxmox]", "vm": "[[vm]]"}


def parsed(path: Path) -> dict[str, object]:
    """Read a file whose keys are all known; ConfigError says in one sentence what is wrong first."""
    raw = _toml(path, _octets(path))
    for place, key, value, known in _entries(raw):
        where = f"{path}: {_joined(place, _shown(key))}"
        if key not in known:
            raise ConfigError(f"{where}: unknown key: {_where_it_belongs(key, known)}")
        if isinstance(value, int) and value.bit_length() >= _INTEGER_BITS:
            raise ConfigError(f"{where}: a number above {_INTEGER_BITS} bits, the limit of TOML: lower it")
    return raw


def typed(raw: dict[str, object], origin: Callable[[str], Path]) -> File:
    """Give each table its types; *origin* returns the file of a key. ConfigError as above."""
    try:
        return msgspec.convert(raw, File)
    except msgspec.ValidationError as error:
        place, sentence = _explain(str(error), raw)
        raise ConfigError(f"{origin(place)}: {place or 'the file'}: {sentence}") from error


def is_name(text: str) -> bool:
    """Return whether a VM may have this name."""
    return _NAME.fullmatch(text) is not None


def vm_place(name: str, index: int) -> str:
    """Return what a sentence calls a VM of the file: by its name, or by its number from 0 if that is none."""
    return f"vm {name!r}" if is_name(name) else f"vm number {index + 1}"


# -- bytes and text -----------------------------------------------------------------------------------------


def _octets(path: Path) -> bytes:
    """Return what the file holds. It must be a regular one: a pipe could make the manager wait for ever."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: not a regular file: name the right file with --config")
            octets = file.read(MANAGER_CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}): name the right file with --config"
        ) from error
    if len(octets) > MANAGER_CONFIG_BYTES_MAX:
        limit = format_size(MANAGER_CONFIG_BYTES_MAX)
        raise ConfigError(f"{path}: larger than {limit}: this is not a configuration of dynmem")
    return octets


def _toml(path: Path, octets: bytes) -> dict[str, object]:
    try:
        text = octets.decode("utf-8-sig")  # an editor may have put a byte order mark in front
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
    if (line := _deep_key(text)) is not None:
        raise ConfigError(
            f"{path}: line {line}: a key of more than {_KEY_PARTS_MAX} parts:"
            " name a key that this table has, without dots"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}: correct it and run --check again") from error
    except ValueError as error:
        raise ConfigError(f"{path}: it has a number of thousands of digits: shorten it") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from error


def _deep_key(text: str) -> int | None:
    """Return the line of a key with too many parts: the parser's time grows with their square."""
    plain = _STRING_OR_REMARK.sub(lambda found: "s" + "\n" * found[0].count("\n"), text)
    found = _DEEP_KEY.search(plain)
    return None if found is None else plain.count("\n", 0, found.start()) + 1


_KEY_PARTS_MAX: Final = 8
# Both patterns pass over each character a bounded number of times, whatever the text: no key begins within a
# word, and a string that is not closed goes on to the end of its line or of the file.
_DEEP_KEY: Final = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{_KEY_PARTS_MAX}}}")
_STRING_OR_REMARK: Final = re.compile(
    r'"{3}(?:[^\\]|\\.)*?(?:"{3}|\Z)'
    r"|'{3}.*?(?:'{3}|\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)

# -- tables -------------------------------------------------------------------------------------------------

_WHERE: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<key>[^`]*)`")
_ENUM: Final = re.compile(r"Invalid enum value (?P<shown>.*)")  # as repr shows it
_ENUM_SHOWN: Final = 40
_INTEGER_BITS: Final = 64
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_WORDS: Final = {
    "mode": get_args(Mode),
    "monitor": (AUTO, *get_args(MonitorKind)),
    "on_shortage": get_args(OnShortage),
    "priority": get_args(Priority),
}
_KINDS: Final = {  # msgspec's names of types in words of TOML
    "int": "a whole number without quotes",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


def _entries(raw: dict[str, object]) -> Iterator[tuple[str, str, object, Sequence[str]]]:
    """Yield each key of the file and its tables: its place, itself, its value, and the keys of that place."""
    for key, value in raw.items():
        yield "", key, value, tuple(TABLES)
        known = TABLES[key].__struct_fields__
        tables = value if isinstance(value, list) else [value]
        for index, table in enumerate(tables):
            place = _place(f"vm[{index}]", raw) if key == "vm" and tables is value else key
            for inner, inner_value in table.items() if isinstance(table, dict) else ():
                yield place, inner, inner_value, known


def _shown(key: str) -> str:
    """Return a key as a sentence names it: without quotes where TOML needs none."""
    return key if _BARE_KEY.fullmatch(key) else quoted(key)


def _explain(message: str, raw: dict[str, object]) -> tuple[str, str]:
    """Turn msgspec's message into the key as it is in the file, and a sentence with the next step."""
    match = _WHERE.match(message)
    assert match is not None
    what, where = match["what"], (match["path"] or "").removeprefix(".")
    place = _place(where, raw)
    if missing := _MISSING.match(what):
        key = missing["key"]
        add = f"a [{key}] table" if not place and key in TABLES else f"{key} = ..."
        return _joined(place, key), f"missing: add {add}"
    return place, _mistyped(what, where.rsplit(".", 1)[-1])


def _where_it_belongs(key: str, known: Sequence[str]) -> str:
    """Return the next step for a key that its table does not know."""
    for name, table in TABLES.items():
        if key in table.__struct_fields__:
            return f"it belongs in {HEADINGS[name]}"
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known here are {', '.join(known)}"


def _mistyped(what: str, key: str) -> str:
    """Return what is wrong with a value of the wrong kind, in words of TOML."""
    if value := _ENUM.match(what):
        words = _WORDS[key]
        shown = value["shown"] if len(value["shown"]) <= _ENUM_SHOWN else f"{value['shown'][:_ENUM_SHOWN]}..."
        close = difflib.get_close_matches(shown.strip("'"), words, 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        return f"{shown} is not one of {', '.join(words)}{hint}"
    expected, _, got = what.removeprefix("Expected ").partition(", got ")
    kinds = [_KINDS.get(kind, kind) for kind in re.findall(r"\w+", expected)]
    if kinds == [_KINDS["array"]] and key == "vm":
        return "is one table: write [[vm]], with two brackets, once for each VM"
    return f"is {_KINDS.get(got.strip('`'), got)}: write {' or '.join(kinds)}"


def _joined(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _place(where: str, raw: dict[str, object]) -> str:
    """Return ``vm[1].weight`` with the VM's name instead of its number, if it has one."""
    match = re.match(r"vm\[(\d+)\](.*)", where)
    if match is None:
        return where
    tables = raw.get("vm")
    entry = tables[int(match[1])] if isinstance(tables, list) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    return vm_place(name if isinstance(name, str) else "", int(match[1])) + match[2]
