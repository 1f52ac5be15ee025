"""Captures and QEMU's trace logs: `read` decodes them, `Capture` writes them. No I/O but the stream given.

The module ``files`` has the file with a size limit that ``dynmem vm`` writes captures to.
"""

from dynmem.trace.capture import Capture
from dynmem.trace.decode import Decoder, Entry, Value
from dynmem.trace.lines import EventLine, Line, MessageLine, PacketLine, parse
from dynmem.trace.reader import Problem, read
from dynmem.trace.show import as_json, as_text

# in the order of importance: reading a whole stream, writing one, line by line
__all__ = [
    "read",
    "Entry",
    "Problem",
    "as_text",
    "as_json",
    "Value",
    "Capture",
    "parse",
    "Decoder",
    "Line",
    "MessageLine",
    "PacketLine",
    "EventLine",
]
