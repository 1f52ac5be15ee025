"""A manager's hold on one VM: under one name of its configuration, and under one manager of the host."""

from pathlib import Path
from typing import Final

from dynmem.errors import RefusedError
from dynmem.manager.sweep.identity import Identities, Identity, uuid_of
from dynmem.manager.sweep.vm_lock import VmLock


class Hold:
    """The hold on the VM behind one name. What it refuses, it refuses in words that follow the VM's name."""

    def __init__(self, name: str, path: Path, identities: Identities) -> None:
        self._name: Final = name
        self._path: Final = path
        self._identities: Final = identities
        self._identity = Identity("")
        self._lock = VmLock()
        identities.enter(name, path)

    def look(self) -> None:
        """Look at the socket before connecting. RefusedError if it leads to a VM of another name."""
        found = self._identities.look(self._name)
        self._claim(self._identity._replace(socket=found.socket))

    def saw_process(self, process: str) -> None:
        """Take in which process listens; "" if it cannot be seen. RefusedError as `look`."""
        self._claim(self._identity._replace(process=process))

    def saw_uuid(self, reported: object) -> None:
        """Take in the UUID that the monitor reports. RefusedError as `look`."""
        self._claim(self._identity._replace(uuid=uuid_of(reported)))

    def lock(self) -> None:
        """Keep other managers from this VM. RefusedError names the one that keeps this one from it."""
        self._lock.take(self._identity.keys, self._path)

    def unlock(self) -> None:
        """Let other managers have it."""
        self._lock.close()

    def release(self) -> None:
        """Forget the VM: its life has ended."""
        self._lock.close()
        self._identity = Identity("")
        self._identities.forget(self._name)

    def close(self) -> None:
        """Forget the name, too."""
        self.release()
        self._identities.leave(self._name)

    def _claim(self, identity: Identity) -> None:
        try:
            self._identities.claim(self._name, identity)
        except RefusedError:
            self.release()
            raise
        self._identity = identity
