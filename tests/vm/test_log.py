"""The log waits for no reader."""

import logging
import os

from dynmem.vm.log import HastyStream, LogHandler


def test_lines_that_nobody_reads_are_dropped_and_counted_and_the_next_ones_are_there() -> None:
    out, into = os.pipe()
    stream = HastyStream(into)
    for number in range(5000):
        stream.write(f"line {number} of many, more than a pipe holds\n")
    first = os.read(out, 1 << 20)
    assert first.startswith(b"line 0 of many")
    stream.write("later\n")
    written = first.count(b"\n")
    assert written < 5000
    assert os.read(out, 1 << 20).decode() == (
        f"dynmem: {5000 - written} lines were dropped here: nobody read them in time\nlater\n"
    )
    os.close(out)
    stream.write("nobody is there\n")
    os.close(into)


def test_a_record_is_written_as_the_format_says() -> None:
    out, into = os.pipe()
    handler = LogHandler(HastyStream(into))
    handler.setFormatter(logging.Formatter("one: %(message)s"))
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "a %s", ("line \ud800",), None))
    assert os.read(out, 100) == b"one: a line \\ud800\n"
    os.close(out)
    os.close(into)
