"""The machine's objects: memory backends by id, made at the start or by object-add, each for one user."""

import asyncio
import errno
import logging
import os
import resource
from collections.abc import Iterator, Mapping
from typing import Final

from dynmem.errors import ConfigError, DynmemError
from dynmem.limits import VM_DESCRIPTORS_SPARE, VM_OBJECTS_MAX
from dynmem.memory.backend import Backend, BackendError, MemfdBackend, RamBackend
from dynmem.memory.backend_file import FileBackend
from dynmem.vm.advice import notes
from dynmem.vm.options.memory import BackendOptions

_LOG: Final = logging.getLogger("dynmem.vm")


class ObjectError(DynmemError):
    """An object cannot be made or deleted; the text is QEMU's where QEMU has one."""


class Objects(Mapping[str, Backend]):
    """The backends; `options` has what each was made with, and its properties read as that.

    The embedded guest is another process, so every backend is shared memory underneath.
    """

    def __init__(self) -> None:
        self._backends: dict[str, Backend] = {}
        self._busy: set[str] = set()
        self.options: Final[dict[str, BackendOptions]] = {}

    def __getitem__(self, identity: str) -> Backend:
        return self._backends[identity]

    def __iter__(self) -> Iterator[str]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)

    def make(self, options: BackendOptions) -> Backend:
        """Make a backend. Raises ObjectError, ConfigError, BackendError; then nothing is left behind."""
        self._check(options.identity)
        return self._add(options, _backend_of(options))

    async def make_beside(self, options: BackendOptions) -> Backend:
        """Make a backend in a thread, since preallocated memory takes seconds. Raises as `make` does."""
        self._check(options.identity)
        backend = await asyncio.to_thread(_backend_of, options)
        try:
            self._check(options.identity)  # another request may have been faster
        except ObjectError:
            backend.close()
            raise
        return self._add(options, backend)

    def _check(self, identity: str) -> None:
        """Raise ObjectError if no object of this name can be added."""
        if identity in self._backends:
            raise ObjectError(f"attempt to add duplicate property '{identity}' to object (type 'container')")
        if len(self._backends) >= VM_OBJECTS_MAX:
            raise ObjectError(
                f"a machine has at most {VM_OBJECTS_MAX} objects: delete one that is not in use"
            )
        if _descriptors_left() < 0:
            raise BackendError(f"object '{identity}': {os.strerror(errno.EMFILE)}", errno.EMFILE)

    def _add(self, options: BackendOptions, backend: Backend) -> Backend:
        self._backends[options.identity] = backend
        self.options[options.identity] = options
        for text in notes(options.identity, options, self._backends):
            _LOG.warning("%s", text)
        return backend

    def remove(self, identity: str) -> None:
        """Delete a backend that nothing uses. Raises ObjectError."""
        if identity not in self._backends:
            raise ObjectError(f"object '{identity}' not found")
        if identity in self._busy:
            raise ObjectError(f"object '{identity}' is in use, can not be deleted")
        self._backends.pop(identity).close()
        del self.options[identity]

    def is_busy(self, identity: str) -> bool:
        """Return whether a device uses it."""
        return identity in self._busy

    def take(self, identity: str) -> Backend:
        """Return a backend that is not in use, and mark it as in use until `release`."""
        assert identity not in self._busy
        self._busy.add(identity)
        return self._backends[identity]

    def release(self, identity: str) -> None:
        """Mark a backend as not in use."""
        self._busy.remove(identity)

    @property
    def busy(self) -> list[Backend]:
        """The backends that are in use."""
        return [self._backends[identity] for identity in sorted(self._busy)]

    def close(self) -> None:
        """Close all of them."""
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()
        self._busy.clear()
        self.options.clear()


def _descriptors_left() -> int:
    """Estimate how many more objects may be made; what a reset and the monitor need is spared."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return VM_OBJECTS_MAX
    try:
        lowest = os.eventfd(0)  # the system gives the lowest number that is free
    except OSError:
        return -1
    os.close(lowest)
    return soft - min(VM_DESCRIPTORS_SPARE, soft // 4) - lowest - 1


def _backend_of(options: BackendOptions) -> Backend:
    if options.kind == "memory-backend-file":
        assert options.mem_path is not None
        if not options.share:
            raise ConfigError(
                f"object '{options.identity}': the embedded guest is another process and would not see the"
                " private pages of a file: add share=on"
            )
        return FileBackend(
            options.size,
            options.mem_path,
            name=options.identity,
            share=True,
            prealloc=options.prealloc,
            discard_data=options.discard_data,
        )
    if options.kind == "memory-backend-memfd":
        return MemfdBackend(
            options.size,
            options.identity,
            prealloc=options.prealloc,
            hugetlb=options.hugetlb,
            hugetlb_size=options.hugetlb_size,
        )
    return RamBackend(
        options.size,
        options.identity,
        share=bool(options.share),
        prealloc=options.prealloc,
        needs_descriptor=True,
    )
