"""The program of a hostile guest: --workload is the number of its member in the cast."""

import argparse
import contextlib
import random
import signal
import socket

from tests.hostile.guests import (
    in_the_protocol,
    in_the_ring,
    on_the_bus,
    on_the_lines,
    with_memory,
    with_processes,
)
from tests.hostile.guests.cast import CAST
from tests.hostile.guests.kernel import Kernel, rest

__all__ = ("CAST",)
SCENES = (in_the_ring, on_the_bus, on_the_lines, in_the_protocol, with_memory, with_processes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hardware-fd", type=int, required=True)
    parser.add_argument("--workload", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    assert SCENES
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=arguments.hardware_fd)
    guest = Kernel(channel, random.Random(arguments.seed).getrandbits(30))
    with contextlib.suppress(OSError):  # its machine has hung up: what a guest does then is its own affair
        list(CAST.values())[arguments.workload](guest)
    rest()


if __name__ == "__main__":
    main()
