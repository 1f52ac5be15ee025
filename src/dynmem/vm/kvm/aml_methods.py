"""Terms of ACPI Machine Language that do something: registers, and the methods of devices.

Each function returns the bytes of one term. A value is a term as well: a number, an argument, a local
variable, or the name of a register, which is read.

Source: ACPI specification, chapter 20 (AML grammar).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from dynmem.vm.kvm.aml import integer, measured, segment

_METHOD: Final = b"\x14"
_SERIALIZED: Final = 1 << 3
_REGION: Final = b"\x5b\x80"
_IN_IO: Final = b"\x01"
_FIELD: Final = b"\x5b\x81"
_BITS_BETWEEN: Final = b"\x00"
_MUTEX: Final = b"\x5b\x01"
_ACQUIRE, _RELEASE = b"\x5b\x23", b"\x5b\x27"
_WITHOUT_END: Final = b"\xff\xff"
_STORE: Final = b"\x70"
_ADD, _SUBTRACT, _INCREMENT = b"\x72", b"\x74", b"\x75"
_QWORD_FIELD: Final = b"\x8f"
_NOTIFY: Final = b"\x86"
_EQUAL, _LESS = b"\x93", b"\x95"
_IF, _ELSE, _WHILE, _RETURN = b"\xa0", b"\xa1", b"\xa2", b"\xa4"
_LOCAL, _ARGUMENT = 0x60, 0x68
_ROOT: Final = b"\\"
_SEVERAL: Final = b"\x2f"
_NOWHERE: Final = b"\x00"  # as the target of a sum: it is only a value
#: How registers are accessed: their bytes at once, and what becomes of the other bits of an access.
BY_BYTES_OTHERS_ZERO: Final = 1 | 2 << 5
BY_DWORDS: Final = 3


class Register(NamedTuple):
    """A register of a region; one without a name is a gap of so many bits."""

    name: str
    bits: int


def path(*labels: str) -> bytes:
    """Return a name from the root on."""
    return _ROOT + _SEVERAL + bytes([len(labels)]) + b"".join(map(segment, labels))


def method(label: str, arguments: int, *terms: bytes) -> bytes:
    """Return a method with so many arguments, which nobody begins while somebody else is in it."""
    return _METHOD + measured(segment(label) + bytes([arguments | _SERIALIZED]) + b"".join(terms))


def ports(label: str, first: int, count: int) -> bytes:
    """Return a region of I/O ports."""
    return _REGION + segment(label) + _IN_IO + integer(first) + integer(count)


def registers(region: str, access: int, fields: Sequence[Register]) -> bytes:
    """Return names for the registers of a region, from its first bit on."""
    names = b"".join(
        (segment(each.name) if each.name else _BITS_BETWEEN) + _length(each.bits) for each in fields
    )
    return _FIELD + measured(segment(region) + bytes([access]) + names)


def mutex(label: str) -> bytes:
    """Return a mutex."""
    return _MUTEX + segment(label) + b"\x00"


def holding(label: str, *terms: bytes) -> bytes:
    """Return terms that are carried out with a mutex held."""
    taken = _ACQUIRE + segment(label) + _WITHOUT_END
    return taken + b"".join(terms) + _RELEASE + segment(label)


def argument(number: int) -> bytes:
    """Return an argument of the method, from 0 on."""
    return bytes([_ARGUMENT + number])


def local(number: int) -> bytes:
    """Return a variable of the method, from 0 on."""
    return bytes([_LOCAL + number])


def store(value: bytes, target: bytes) -> bytes:
    """Return an assignment."""
    return _STORE + value + target


def add(one: bytes, other: bytes) -> bytes:
    """Return a sum."""
    return _ADD + one + other + _NOWHERE


def subtract(one: bytes, other: bytes, target: bytes = _NOWHERE) -> bytes:
    """Return a difference, which is also stored if it has a target."""
    return _SUBTRACT + one + other + target


def increment(target: bytes) -> bytes:
    """Return what makes a variable one larger."""
    return _INCREMENT + target


def equal(one: bytes, other: bytes) -> bytes:
    """Return whether two values are the same."""
    return _EQUAL + one + other


def less(one: bytes, other: bytes) -> bytes:
    """Return whether one value is below the other."""
    return _LESS + one + other


def when(condition: bytes, *terms: bytes, otherwise: Sequence[bytes] = ()) -> bytes:
    """Return terms that are carried out on a condition, and others that are without it."""
    term = _IF + measured(condition + b"".join(terms))
    return term + _ELSE + measured(b"".join(otherwise)) if otherwise else term


def repeat(condition: bytes, *terms: bytes) -> bytes:
    """Return terms that are carried out as long as a condition holds."""
    return _WHILE + measured(condition + b"".join(terms))


def give(value: bytes) -> bytes:
    """Return what ends a method with a result."""
    return _RETURN + value


def call(method_name: bytes, *arguments: bytes) -> bytes:
    """Return a call of a method; it has as many arguments as that takes."""
    return method_name + b"".join(arguments)


def notify(device: bytes, what: bytes) -> bytes:
    """Return what notifies the driver of a device."""
    return _NOTIFY + device + what


def qword_of(buffer: bytes, at: int, label: str) -> bytes:
    """Return a name for 8 bytes of a buffer."""
    return _QWORD_FIELD + buffer + integer(at) + segment(label)


def _length(bits: int) -> bytes:
    """Return a number of bits, in the form in which terms have their lengths; it does not count itself."""
    assert bits < 1 << 12
    return bytes([bits]) if bits < 1 << 6 else bytes([1 << 6 | bits & 0xF, bits >> 4])
