"""Which console the options ask for."""

from collections.abc import Callable

from dynmem.vm.console.console import Console, NoConsole
from dynmem.vm.console.file import FileConsole
from dynmem.vm.console.server import SocketConsole
from dynmem.vm.console.terminal import TerminalConsole
from dynmem.vm.options.console import ConsoleKind, ConsoleOptions


def open_console(options: ConsoleOptions, end: Callable[[], None]) -> Console:
    """Open the console; `end` is called on a thread of its own when its user asks to end the machine.

    Raises ConfigError, or ShortageError.
    """
    if options.kind is ConsoleKind.STDIO:
        return TerminalConsole(end)
    if options.kind is ConsoleKind.FILE:
        assert options.path is not None
        return FileConsole(options.path)
    if options.kind is ConsoleKind.SOCKET:
        assert options.path is not None
        return SocketConsole(options.path)
    return NoConsole()
