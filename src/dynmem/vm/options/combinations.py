"""Which options of ``dynmem vm`` go together: a kernel can have others than the embedded guest."""

from dynmem.errors import ConfigError
from dynmem.vm.options.console import ConsoleKind
from dynmem.vm.options.machine import VmOptions


def check(options: VmOptions) -> None:
    """Raise ConfigError for an option that the guest of this machine cannot have."""
    if options.boot is None:
        _check_embedded(options)


def _check_embedded(options: VmOptions) -> None:
    if options.vp_count != 1:
        raise ConfigError(
            f"--smp {options.vp_count}: the embedded guest has one virtual processor: leave --smp out, or add"
            " --kernel"
        )
    if options.console.kind in (ConsoleKind.STDIO, ConsoleKind.SOCKET):
        raise ConfigError(
            f"--serial {options.console.kind.value}: the embedded guest only writes its console: name a file,"
            " like file:/dev/stdout"
        )
