"""A console behind a unix socket, for one client at a time.

What the guest wrote last while no client was there is what a client gets first. A client that does not read
misses output, and holds neither the guest nor the next client: that one takes its place.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.sockets import bind_private
from dynmem.vm.console.backlog import Backlog
from dynmem.vm.console.input import Input
from dynmem.vm.console.threads import CLOSING_S, started
from dynmem.vm.platform import ShortageError

_BYTES_AT_ONCE: Final = 4096
_BLOCKS_AT_ONCE: Final = 16
_GATHERING_S: Final = 0.005  # so that a line is sent together
_AGAIN_S: Final = 1.0  # when the host has no descriptor for a client
_GONE: Final = select.POLLHUP | select.POLLERR
#: What another client receives.
BUSY: Final = b"another client is connected to this console: end it first\r\n"


class SocketConsole:
    """A `Console` that listens at a path."""

    def __init__(self, path: Path) -> None:
        """Listen. Raises ConfigError, or ShortageError."""
        self._path: Final = path
        self._listener: Final = bind_private(path)
        try:
            self._listener.listen(1)
            self._listener.setblocking(False)
            self._wakeup: Final = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            self._listener.close()
            path.unlink(missing_ok=True)
            raise ShortageError(f"the console cannot be opened: {path}: {error.strerror}") from None
        self._is_closing: Final = threading.Event()
        self._input: Final = Input(self._wake)
        self._backlog: Final = Backlog(self._wake)
        self._arrived: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        # what follows belongs to the thread
        self._client: socket.socket | None = None
        self._dropped_before = 0  # bytes, when the client last took some
        self._unsent = b""  # empty: the backlog is empty, too, and wakes when it is not

    def connect(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        self._thread = started(self._serve)

    def write(self, data: bytes) -> None:
        self._backlog.append(data)

    def read(self, limit: int) -> bytes:
        return self._input.take(limit)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._is_closing.set()
        self._wake()
        if self._thread is not None:
            self._thread.join()  # whose every wait is bounded
        self._drop_client()
        self._listener.close()
        os.close(self._wakeup)

    def _wake(self) -> None:
        os.eventfd_write(self._wakeup, 1)

    def _serve(self) -> None:
        while not self._is_closing.is_set():
            self._turn()
        self._send_the_rest()

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        waiting = select.poll()
        waiting.register(self._wakeup, select.POLLIN)
        waiting.register(self._listener, select.POLLIN)
        client = self._client
        if client is not None:
            wanted = (select.POLLIN if self._input.room else 0) | (select.POLLOUT if self._unsent else 0)
            if wanted:  # even without it poll(2) would report, again and again, that the client has gone
                waiting.register(client, wanted)
        ready = dict(waiting.poll())
        if self._wakeup in ready:
            os.eventfd_read(self._wakeup)
            self._is_closing.wait(_GATHERING_S)
        if client is not None and ready.get(client.fileno(), 0) & (select.POLLIN | _GONE):
            self._receive(client)
        self._send()
        if self._listener.fileno() in ready:
            self._admit()

    def _receive(self, client: socket.socket) -> None:
        room = min(self._input.room, _BYTES_AT_ONCE)
        if not room:
            return
        try:
            data = client.recv(room, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._input.put(data)
            self._arrived()
        else:
            self._drop_client()

    def _send(self) -> None:
        """Send what the client takes without waiting, up to a bound."""
        for _ in range(_BLOCKS_AT_ONCE):
            if self._client is None:
                return
            self._unsent = self._unsent or self._backlog.take()
            if not self._unsent:
                return
            try:
                self._unsent = self._unsent[self._client.send(self._unsent, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                return
            except OSError:
                self._drop_client()
            self._dropped_before = self._backlog.dropped_bytes
        self._unsent = self._unsent or self._backlog.take()

    def _send_the_rest(self) -> None:
        deadline = time.monotonic() + CLOSING_S
        self._send()
        while self._client is not None and self._unsent and time.monotonic() < deadline:
            room = select.poll()  # and not select(2), which knows no descriptor above 1023
            room.register(self._client, select.POLLOUT)
            room.poll(max(deadline - time.monotonic(), 0) * 1000)
            self._send()

    def _admit(self) -> None:
        """Accept a client, unless there is one that reads."""
        try:
            new, _ = self._listener.accept()
        except BlockingIOError:  # it has gone already
            return
        except OSError:  # no descriptor is left
            self._is_closing.wait(_AGAIN_S)
            return
        if self._client is not None and not self._has_left_or_does_not_read(self._client):
            with new, contextlib.suppress(OSError):
                new.send(BUSY, socket.MSG_DONTWAIT)
            return
        self._drop_client()
        self._client = new
        self._send()

    def _has_left_or_does_not_read(self, client: socket.socket) -> bool:
        if self._unsent and self._backlog.dropped_bytes > self._dropped_before:
            return True
        look = select.poll()
        look.register(client, 0)
        return any(events & _GONE for _, events in look.poll(0))

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
