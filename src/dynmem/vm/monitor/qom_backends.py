"""Memory backends as objects with properties, in QEMU's words (QEMU backends/hostmem*.c).

What a backend is made with cannot be changed; the rest can be set. Two properties are kept and change
nothing: `merge`, as in QEMU, since the kernel merges private memory only and a guest's is shared; and
`prealloc-threads`, since one system call makes the memory resident.
"""

import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from dynmem.memory import system_calls
from dynmem.memory.backend import Backend
from dynmem.memory.backend_file import FileBackend
from dynmem.qmp.types import BOOL, STR, UINT32, read, wrong
from dynmem.vm.monitor.qom import Node, Property, Write
from dynmem.vm.options.memory import BackendOptions

BACKEND: Final = "memory-backend"  # what all of them are
MEMFD: Final = "memory-backend-memfd"
FILE: Final = "memory-backend-file"
RAM: Final = "memory-backend-ram"
POLICY: Final = "default"  # memory is taken from the host's NUMA nodes as the host likes
_CONSTANT: Final = "cannot change property value"


@dataclass
class Settings:
    """The properties of a backend that can be set."""

    merge: bool = True
    dump: bool = True
    prealloc: bool = False
    prealloc_threads: int = 1


class BackendObjects:
    """Backends as nodes of the tree, and the settings of each while it exists."""

    def __init__(self) -> None:
        self._settings: WeakKeyDictionary[Backend, Settings] = WeakKeyDictionary()

    def settings(self, backend: Backend) -> Settings:
        """Return the settings of a backend."""
        if backend not in self._settings:
            self._settings[backend] = Settings(prealloc=backend.prealloc)
        return self._settings[backend]

    def node(self, backend: Backend, options: BackendOptions) -> Node:
        """Return the object of a backend that was made with `options`."""
        return Node(
            f"/objects/{options.identity}",
            options.kind,
            BACKEND,
            properties=lambda _: (*self._common(backend, options), *_of_kind(backend, options)),
        )

    def info(self, backend: Backend, options: BackendOptions) -> dict[str, object]:
        """Return its entry in query-memdev."""
        names = ("size", "merge", "dump", "prealloc", "share", "reserve", "host-nodes", "policy")
        node = self.node(backend, options)
        return {"id": options.identity} | {name: node.get(name).read() for name in names}

    def set_dump(self, backend: Backend, value: bool) -> None:
        """Include the memory in a core dump of this process, or not."""
        advice = mmap.MADV_DODUMP if value else mmap.MADV_DONTDUMP
        number = system_calls.madvise(backend.address, backend.size, advice)
        assert number == 0, number
        self.settings(backend).dump = value

    def set_merge(self, backend: Backend, value: bool) -> None:
        """Set whether the memory may be merged, for reading only."""
        self.settings(backend).merge = value

    def set_prealloc_threads(self, backend: Backend, kind: str, value: object) -> None:
        """Set how many threads may preallocate, for reading only. Raises QmpCommandError."""
        number = read(UINT32, value, "prealloc-threads")
        assert isinstance(number, int)
        if number == 0:
            raise wrong(f"property 'prealloc-threads' of {kind} doesn't take value '0'")
        self.settings(backend).prealloc_threads = number

    def preallocate(self, backend: Backend) -> None:
        """Make all of it resident. Raises BackendError."""
        backend.preallocate()
        self.settings(backend).prealloc = True

    def _common(self, backend: Backend, options: BackendOptions) -> Iterable[Property]:
        settings = self.settings(backend)
        kind = options.kind

        def set_prealloc(value: bool) -> None:
            if value and not settings.prealloc:
                self.preallocate(backend)

        return (
            Property("share", "bool", lambda: is_share(options), _fixed("share", _CONSTANT)),
            Property("size", "int", lambda: options.size, _refuse(f"cannot change property size of {kind} ")),
            Property(
                "dump",
                "bool",
                lambda: settings.dump,
                _flag("dump", lambda value: self.set_dump(backend, value)),
            ),
            Property(
                "prealloc-threads",
                "int",
                lambda: settings.prealloc_threads,
                lambda value: self.set_prealloc_threads(backend, kind, value),
            ),
            Property("policy", "HostMemPolicy", lambda: POLICY, _refuse(_CONSTANT)),
            Property("prealloc", "bool", lambda: settings.prealloc, _flag("prealloc", set_prealloc)),
            Property("reserve", "bool", lambda: True, _fixed("reserve", _CONSTANT)),
            Property("host-nodes", "int", list, _refuse(_CONSTANT)),
            Property(
                "merge",
                "bool",
                lambda: settings.merge,
                _flag("merge", lambda value: self.set_merge(backend, value)),
            ),
        )


def is_share(options: BackendOptions) -> bool:
    """Return the value of `share`."""
    return options.kind == MEMFD if options.share is None else options.share


def _flag(name: str, change: Callable[[bool], None]) -> Write:
    return lambda value: change(read(BOOL, value, name) is True)


def _fixed(name: str, desc: str) -> Write:
    """Return the writer of a switch that can no longer be changed; it checks the type first."""

    def write(value: object) -> None:
        read(BOOL, value, name)
        raise wrong(desc)

    return write


def _refuse(desc: str) -> Write:
    def write(_: object) -> None:
        raise wrong(desc)

    return write


def _of_kind(backend: Backend, options: BackendOptions) -> Iterable[Property]:
    """Return the properties that only backends of this kind have."""
    if options.kind == MEMFD:
        return (
            Property("hugetlb", "bool", lambda: options.hugetlb, _fixed("hugetlb", _CONSTANT)),
            Property("seal", "bool", lambda: True, _fixed("seal", _CONSTANT)),
            Property("hugetlbsize", "int", lambda: options.hugetlb_size, _refuse(_CONSTANT)),
        )
    if not isinstance(backend, FileBackend):
        return ()

    def set_discard_data(value: bool) -> None:
        backend.discard_data = value

    def set_path(value: object) -> None:
        read(STR, value, "mem-path")
        raise wrong(f"cannot change property 'mem-path' of {FILE}")

    return (
        Property("mem-path", "string", lambda: str(options.mem_path), set_path),
        Property(
            "discard-data", "bool", lambda: backend.discard_data, _flag("discard-data", set_discard_data)
        ),
    )
