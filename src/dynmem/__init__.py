"""Hyper-V Dynamic Memory for KVM: a protocol library, a VMM with the device, and a host's memory manager.

Most people use the command (``dynmem --help``). As a library, take names from the packages below: each
exports what its ``__all__`` lists, the most important first. This module itself has only `__version__`.

* `dynmem.dm`: both ends of the Dynamic Memory Protocol as state machines without I/O. Begin here.
* `dynmem.vmbus`: both ends of VMBus, over guest memory that is a small protocol of yours.
* `dynmem.wire`: bytes and typed messages; one module per protocol, each with `encode` and `decode`.
* `dynmem.pages`: page ranges as they travel, and sets of pages in bounded memory.
* `dynmem.conformance`: a test suite for any host or guest, yours too.
* `dynmem.trace`: read captures and QEMU's trace logs; write captures.
* `dynmem.qmp`: a QMP client and server.
* `dynmem.policy` and `dynmem.gmm`: who should get how much, and the books of who has it.

`dynmem.errors` has the exceptions, `dynmem.units` sizes and times, `dynmem.direction` the two directions of a
message, `dynmem.trace_events` QEMU's trace events.
The other packages are the programs: they can be imported, but they change without notice.

``docs/library.md`` shows how to begin, ``examples/`` has short programs, and ``docs/architecture.md``
describes the layout of the whole.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"

if not __debug__:
    raise ImportError(
        "dynmem does not run under python -O: its assertions guard guest memory; "
        "start Python without -O and unset PYTHONOPTIMIZE",
        name="dynmem",
    )
