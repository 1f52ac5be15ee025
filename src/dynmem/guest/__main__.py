"""``python -m dynmem.guest``: the process that a VM starts as its embedded guest.

Besides the standard three it inherits one descriptor, the hardware's socket. Standard output is the serial
console, standard error the log. It ends when the socket closes; that nothing of it outlives its VM is not its
own affair (`dynmem.vm.embedded.keeper`).
"""

import argparse
import logging
import os
import signal
import socket
import sys
from typing import Final

_STANDARD_OUTPUT: Final = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the guest until its VM is gone. Returns the exit code."""
    options = _parser().parse_args(arguments)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to a whole process group, they are for the VM to handle
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # or numpy would start a thread per core
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")

    from dynmem.errors import DynmemError
    from dynmem.guest.console import Console
    from dynmem.guest.hardware import Hardware, HostGoneError
    from dynmem.guest.loop import run
    from dynmem.guest.options import parse_options

    try:
        guest = parse_options(options.workload)
        hardware = Hardware(_socket(options.hardware_fd))
        run(hardware, guest, options.seed, Console(_STANDARD_OUTPUT))
    except HostGoneError:
        return 0
    except DynmemError as error:
        logging.getLogger("dynmem.guest").error("%s", error)  # noqa: TRY400 - a sentence, no traceback
        return int(error.exit_code)
    return 0


def _socket(descriptor: int) -> socket.socket:
    from dynmem.errors import ConfigError

    try:
        channel = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"--hardware-fd {descriptor} is not a socket: {error.strerror}") from None
    channel.setblocking(True)
    channel.set_inheritable(False)
    return channel


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dynmem.guest", description="An embedded guest of a VM.")
    parser.add_argument("--hardware-fd", type=int, required=True, metavar="N", help="the hardware's socket")
    parser.add_argument("--workload", default="sine", metavar="NAME[,KEY=VALUE...]", help="load and habits")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the page allocator")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
