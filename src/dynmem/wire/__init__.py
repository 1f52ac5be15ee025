"""Bytes and typed messages. Each module is one protocol: frozen message classes, `encode` and `decode`.

A decoder trusts nothing: bytes that are not a message raise `dynmem.errors.RemoteProtocolError`. The
modules are the interface, because each has an `encode`, a `decode` and a ``Message`` of its own::

    from dynmem.wire import dm

    dm.decode(dm.encode(dm.BalloonRequest(trans_id=7, num_pages=512)))
"""

from dynmem.wire import (
    dm,
    hardware,
    heat_hint,
    hyperv,
    layout,
    monitor_page,
    packet,
    status,
    synic,
    versions,
    vmbus,
)

# in the order of importance: the two protocols, what carries them, and how tables become codecs
__all__ = [
    "dm",
    "vmbus",
    "packet",
    "versions",
    "status",
    "synic",
    "hyperv",
    "heat_hint",
    "monitor_page",
    "hardware",
    "layout",
]
