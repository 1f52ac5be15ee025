"""A guest's ACPI interpreter: reads a DSDT and runs its methods on a machine's ports.

It knows the terms that a small DSDT has, and nothing of how ours is made. Whatever it does not know, and what
a real one would complain about (a mutex taken twice or kept, a name that is not there), is an AssertionError.

Source: ACPI specification 6.4, chapters 19 and 20.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Path = tuple[str, ...]
_CONSTANTS = {0x00: 0, 0x01: 1, 0xFF: (1 << 64) - 1}
_WIDTHS = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}
_WORD = (1 << 64) - 1


class Region(NamedTuple):
    first: int
    size: int


class Field(NamedTuple):
    """Bits of a region, how many bytes an access to them has, and whether it writes the others as zeros."""

    region: Region
    at: int
    bits: int
    access: int
    others_zero: bool


class Method(NamedTuple):
    arguments: int
    start: int
    end: int


class Device:
    pass


class Mutex:
    is_held = False


class BufferField(NamedTuple):
    buffer: bytearray
    at: int


class Returned(Exception):  # noqa: N818
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Frame:
    """A method that is being run."""

    def __init__(self, scope: Path, arguments: tuple[Any, ...]) -> None:
        self.scope = scope
        self.arguments = list(arguments)
        self.variables: dict[int, Any] = {}


class Interpreter:
    """The namespace of a table (without its header), and its methods.

    `notified` has each notification: the device's path, and what it is.
    """

    def __init__(
        self, aml: bytes, read: Callable[[int, int], int], write: Callable[[int, int, int], None]
    ) -> None:
        self._aml = aml
        self._read, self._write = read, write
        self.notified: list[tuple[Path, int]] = []
        self.objects: dict[Path, Any] = {("_SB_",): Device(), ("_GPE",): Device()}
        self._at = 0
        self._define(len(aml), Frame((), ()))

    def devices(self, hid: int | str) -> list[Path]:
        """The devices with this _HID."""
        return [path[:-1] for path, value in self.objects.items() if path[-1] == "_HID" and value == hid]

    def call(self, path: Path, *arguments: Any) -> Any:
        """Run a method, or return what an object is."""
        found = self.objects[path]
        if not isinstance(found, Method):
            assert not arguments
            return found
        assert found.arguments == len(arguments), path
        held = self._held()
        known, at = set(self.objects), self._at
        self._at = found.start
        try:
            self._run(found.end, Frame(path, arguments))
        except Returned as returned:
            return returned.value
        finally:
            self._at = at
            for made in set(self.objects) - known:
                del self.objects[made]
            assert self._held() == held, f"{path} keeps a mutex"
        return None

    def _held(self) -> set[Path]:
        return {path for path, value in self.objects.items() if isinstance(value, Mutex) and value.is_held}

    # bytes

    def _byte(self) -> int:
        self._at += 1
        return self._aml[self._at - 1]

    def _number(self, size: int) -> int:
        self._at += size
        return int.from_bytes(self._aml[self._at - size : self._at], "little")

    def _length(self) -> int:
        lead = self._byte()
        more = lead >> 6
        return lead & 0xF | self._number(more) << 4 if more else lead & 0x3F

    def _end(self) -> int:
        start = self._at
        return start + self._length()

    def _segment(self) -> str:
        self._at += 4
        name = self._aml[self._at - 4 : self._at].decode("ascii")
        assert name[0] == "_" or "A" <= name[0] <= "Z"
        assert all(letter == "_" or letter.isdigit() or "A" <= letter <= "Z" for letter in name)
        return name

    def _name(self) -> tuple[bool, Path]:
        is_absolute = self._aml[self._at] == ord("\\")
        self._at += is_absolute
        count = 1
        if self._aml[self._at] == 0x2E:
            self._at, count = self._at + 1, 2
        elif self._aml[self._at] == 0x2F:
            self._at, count = self._at + 2, self._aml[self._at + 1]
        return is_absolute, tuple(self._segment() for _ in range(count))

    def _new(self, scope: Path) -> Path:
        is_absolute, name = self._name()
        path = name if is_absolute else (*scope, *name)
        assert path not in self.objects, path
        assert not path[:-1] or path[:-1] in self.objects, path
        return path

    def _found(self, scope: Path) -> Path:
        is_absolute, name = self._name()
        if is_absolute:
            assert name in self.objects, name
            return name
        assert len(name) == 1
        while (*scope, *name) not in self.objects:
            assert scope, f"{name} is nowhere"
            scope = scope[:-1]
        return (*scope, *name)

    # definitions

    def _define(self, end: int, frame: Frame) -> None:
        while self._at < end:
            assert self._definition(self._byte(), frame), f"at {self._at:#x}"
        assert self._at == end

    def _definition(self, opcode: int, frame: Frame) -> bool:
        scope = frame.scope
        if opcode == 0x08:
            path = self._new(scope)
            self.objects[path] = self._value(frame)
        elif opcode == 0x10:
            end = self._end()
            self._define(end, Frame(self._found(scope), ()))
        elif opcode == 0x14:
            end = self._end()
            path = self._new(scope)
            flags = self._byte()
            self.objects[path] = Method(flags & 7, self._at, end)
            self._at = end
        elif opcode == 0x5B:
            self._extended(self._byte(), frame)
        else:
            return False
        return True

    def _extended(self, opcode: int, frame: Frame) -> None:
        if opcode == 0x01:
            path = self._new(frame.scope)
            assert self._byte() == 0
            self.objects[path] = Mutex()
        elif opcode == 0x80:
            path = self._new(frame.scope)
            assert self._byte() == 1  # ports
            self.objects[path] = Region(self._value(frame), self._value(frame))
        elif opcode == 0x81:
            self._fields(self._end(), frame)
        elif opcode == 0x82:
            end = self._end()
            path = self._new(frame.scope)
            self.objects[path] = Device()
            self._define(end, Frame(path, ()))
        elif opcode == 0x23:
            mutex = self.objects[self._found(frame.scope)]
            assert isinstance(mutex, Mutex)
            assert not mutex.is_held
            assert self._number(2) == 0xFFFF
            mutex.is_held = True
        elif opcode == 0x27:
            mutex = self.objects[self._found(frame.scope)]
            assert mutex.is_held
            mutex.is_held = False
        else:
            raise AssertionError(f"5b {opcode:02x}")

    def _fields(self, end: int, frame: Frame) -> None:
        region = self.objects[self._found(frame.scope)]
        assert isinstance(region, Region)
        flags = self._byte()
        access = {1: 1, 2: 2, 3: 4}[flags & 0xF]
        assert flags & 0x10 == 0
        others_zero = {0: False, 2: True}[flags >> 5]
        at = 0
        while self._at < end:
            if self._aml[self._at] == 0:
                self._at += 1
                at += self._length()
                continue
            path = self._new(frame.scope)
            bits = self._length()
            assert at + bits <= 8 * region.size
            self.objects[path] = Field(region, at, bits, access, others_zero)
            at += bits

    # statements and values

    def _run(self, end: int, frame: Frame) -> None:
        while self._at < end:
            self._value(frame)
        assert self._at == end

    def _value(self, frame: Frame) -> Any:
        opcode = self._aml[self._at]
        if opcode == 0x5C or opcode == 0x5F or 0x41 <= opcode <= 0x5A:
            return self._use(self._found(frame.scope), frame)
        self._at += 1
        if opcode in _CONSTANTS:
            return _CONSTANTS[opcode]
        if opcode in _WIDTHS:
            return self._number(_WIDTHS[opcode])
        if opcode == 0x0D:
            end = self._aml.index(0, self._at)
            text, self._at = self._aml[self._at : end].decode("ascii"), end + 1
            return text
        if opcode == 0x11:
            end = self._end()
            data = bytearray(self._value(frame))
            given = self._aml[self._at : end]
            data[: len(given)] = given
            self._at = end
            return data
        if opcode == 0x12:
            end = self._end()
            package = [self._value(frame) for _ in range(self._byte())]
            assert self._at == end
            return package
        if 0x60 <= opcode <= 0x67:
            return frame.variables[opcode - 0x60]
        if 0x68 <= opcode <= 0x6E:
            return frame.arguments[opcode - 0x68]
        return self._statement(opcode, frame)

    def _statement(self, opcode: int, frame: Frame) -> Any:
        if opcode == 0x70:
            return self._store(self._value(frame), frame)
        if opcode in (0x72, 0x74):
            one, other = self._value(frame), self._value(frame)
            result = (one + other if opcode == 0x72 else one - other) & _WORD
            if self._aml[self._at]:
                return self._store(result, frame)
            self._at += 1
            return result
        if opcode == 0x75:
            target = self._byte()
            frame.variables[target - 0x60] += 1
            return frame.variables[target - 0x60]
        if opcode == 0x86:
            device = self._found(frame.scope)
            assert isinstance(self.objects[device], Device)
            self.notified.append((device, self._value(frame)))
            return None
        if opcode == 0x8F:
            buffer, at = self._value(frame), self._value(frame)
            self.objects[self._new(frame.scope)] = BufferField(buffer, at)
            return None
        if opcode in (0x93, 0x95):
            one, other = self._value(frame), self._value(frame)
            return _WORD * (one == other if opcode == 0x93 else one < other)
        if opcode == 0xA4:
            raise Returned(self._value(frame))
        if opcode in (0xA0, 0xA2):
            return self._branch(opcode, frame)
        assert self._definition(opcode, frame), f"{opcode:02x} at {self._at:#x}"
        return None

    def _branch(self, opcode: int, frame: Frame) -> None:
        start = self._at
        end = self._end()
        while True:
            holds = self._value(frame)
            if holds:
                self._run(end, frame)
            self._at = end
            if opcode == 0xA0 or not holds:
                break
            self._at = start
            self._length()
        if opcode == 0xA0 and end < len(self._aml) and self._aml[end] == 0xA1:
            self._at += 1
            other = self._end()
            if not holds:
                self._run(other, frame)
            self._at = other

    def _use(self, path: Path, frame: Frame) -> Any:
        found = self.objects[path]
        if isinstance(found, Method):
            return self.call(path, *[self._value(frame) for _ in range(found.arguments)])
        if isinstance(found, Field):
            return self._in(found)
        if isinstance(found, BufferField):
            return int.from_bytes(found.buffer[found.at : found.at + 8], "little")
        return found

    def _store(self, value: Any, frame: Frame) -> Any:
        opcode = self._aml[self._at]
        if 0x60 <= opcode <= 0x67:
            self._at += 1
            frame.variables[opcode - 0x60] = value
            return value
        target = self.objects[self._found(frame.scope)]
        if isinstance(target, Field):
            self._out(target, value)
        else:
            assert isinstance(target, BufferField)
            assert target.at + 8 <= len(target.buffer)
            target.buffer[target.at : target.at + 8] = value.to_bytes(8, "little")
        return value

    # registers

    def _accesses(self, field: Field) -> Iterator[int]:
        """The ports that are accessed, relative to the region."""
        first = field.at // 8 // field.access * field.access
        yield from range(first, -(-(field.at + field.bits) // 8), field.access)

    def _in(self, field: Field) -> int:
        value = 0
        for number, at in enumerate(self._accesses(field)):
            value |= self._read(field.region.first + at, field.access) << 8 * field.access * number
        shift = field.at - 8 * next(self._accesses(field))
        return value >> shift & (1 << field.bits) - 1

    def _out(self, field: Field, value: int) -> None:
        value &= (1 << field.bits) - 1
        width = 8 * field.access
        for at in self._accesses(field):
            shift = field.at - 8 * at
            placed = value << shift if shift >= 0 else value >> -shift
            mask = ((1 << field.bits) - 1) << shift if shift >= 0 else ((1 << field.bits) - 1) >> -shift
            placed, mask = placed & (1 << width) - 1, mask & (1 << width) - 1
            if mask != (1 << width) - 1 and not field.others_zero:
                placed |= self._read(field.region.first + at, field.access) & ~mask
            self._write(field.region.first + at, field.access, placed)
