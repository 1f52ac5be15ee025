"""The refusal of an access to an MSR, which the guest gets as the exception #GP."""

from dynmem.errors import DynmemError


class GeneralProtectionError(DynmemError):
    """A guest has accessed an MSR that is not there, or cannot be written, or not with that value."""
