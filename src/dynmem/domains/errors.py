"""What goes wrong with libvirt, in the ways that matter to its callers."""

from dynmem.errors import ConfigError, DynmemError, ExitCode


class LibvirtError(DynmemError):
    """Libvirt cannot be reached, or what it was asked for did not succeed."""

    exit_code = ExitCode.UNREACHABLE


class LibvirtRefusedError(LibvirtError):
    """Libvirt refused, and has changed nothing."""


class LibvirtLostError(LibvirtError):
    """The connection to libvirt has ended."""


class LibvirtMissingError(ConfigError):
    """Python's module of libvirt is not installed."""
