"""dynmem: memory by demand for the virtual machines of a KVM host.

The rooms of the package and what each may import are listed in ``docs/architecture.md`` and held by
``tests/test_edges.py``.
"""

if not __debug__:  # asserts are safety equipment here: they guard the books and the page sets
    raise SystemExit("dynmem: refuses to run under python -O, its assertions guard guest memory")

__version__ = "0.1.0"
