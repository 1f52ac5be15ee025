"""Splits what a QMP client sends into JSON tokens, however the bytes arrive.

QEMU's monitor reads a stream of JSON values, not lines: a command may span lines, several may share one, and
none needs a newline after it. Strings may use single quotes. After a byte that fits nowhere, the lexer
reports what it had so far and skips to the next newline or structural character (seen in QEMU 7.2).

The machine is a table of states and bytes; every byte is read once.
"""

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple


class Kind(enum.Enum):
    """The kind of a token. STRING, NUMBER and KEYWORD carry their text, ERROR the part that was read."""

    STRUCTURAL = enum.auto()
    STRING = enum.auto()
    NUMBER = enum.auto()
    KEYWORD = enum.auto()
    ERROR = enum.auto()


class Token(NamedTuple):
    """One token; a string keeps its quotes and escapes as they were sent."""

    kind: Kind
    text: bytes


class _State(enum.IntEnum):
    START = 0
    DOUBLE = enum.auto()
    DOUBLE_ESCAPE = enum.auto()
    SINGLE = enum.auto()
    SINGLE_ESCAPE = enum.auto()
    MINUS = enum.auto()
    ZERO = enum.auto()
    DIGITS = enum.auto()
    POINT = enum.auto()
    FRACTION = enum.auto()
    EXPONENT = enum.auto()
    EXPONENT_SIGN = enum.auto()
    EXPONENT_DIGITS = enum.auto()
    WORD = enum.auto()
    RECOVERY = enum.auto()
    # the following end a token
    STRUCTURAL = enum.auto()  # with this byte
    STRING = enum.auto()  # with this byte
    ENDED = enum.auto()  # before this byte
    ERROR = enum.auto()  # with this byte, which fits nowhere


_DIGITS: Final = b"0123456789"
_CONTROL: Final = bytes(range(0x20))
_NEVER: Final = b"\xfe\xff"  # bytes that never occur in UTF-8
_IN_STRING: Final = bytes(set(range(0x20, 0x100)) - set(_NEVER))

# state -> the next state by default, and the bytes that lead elsewhere
_RULES: Final[dict[_State, tuple[_State, tuple[tuple[bytes, _State], ...]]]] = {
    _State.START: (
        _State.ERROR,
        (
            (b" \t\r\n", _State.START),
            (b"{}[],:", _State.STRUCTURAL),
            (b'"', _State.DOUBLE),
            (b"'", _State.SINGLE),
            (b"-", _State.MINUS),
            (b"0", _State.ZERO),
            (b"123456789", _State.DIGITS),
            (b"abcdefghijklmnopqrstuvwxyz", _State.WORD),
        ),
    ),
    _State.DOUBLE: (
        _State.ERROR,
        ((_IN_STRING, _State.DOUBLE), (b"\\", _State.DOUBLE_ESCAPE), (b'"', _State.STRING)),
    ),
    _State.DOUBLE_ESCAPE: (_State.ERROR, ((_IN_STRING, _State.DOUBLE),)),
    _State.SINGLE: (
        _State.ERROR,
        ((_IN_STRING, _State.SINGLE), (b"\\", _State.SINGLE_ESCAPE), (b"'", _State.STRING)),
    ),
    _State.SINGLE_ESCAPE: (_State.ERROR, ((_IN_STRING, _State.SINGLE),)),
    _State.MINUS: (_State.ERROR, ((b"0", _State.ZERO), (b"123456789", _State.DIGITS))),
    _State.ZERO: (_State.ENDED, ((b".", _State.POINT), (b"eE", _State.EXPONENT), (_DIGITS, _State.ERROR))),
    _State.DIGITS: (
        _State.ENDED,
        ((_DIGITS, _State.DIGITS), (b".", _State.POINT), (b"eE", _State.EXPONENT)),
    ),
    _State.POINT: (_State.ERROR, ((_DIGITS, _State.FRACTION),)),
    _State.FRACTION: (_State.ENDED, ((_DIGITS, _State.FRACTION), (b"eE", _State.EXPONENT))),
    _State.EXPONENT: (_State.ERROR, ((_DIGITS, _State.EXPONENT_DIGITS), (b"+-", _State.EXPONENT_SIGN))),
    _State.EXPONENT_SIGN: (_State.ERROR, ((_DIGITS, _State.EXPONENT_DIGITS),)),
    _State.EXPONENT_DIGITS: (_State.ENDED, ((_DIGITS, _State.EXPONENT_DIGITS),)),
    _State.WORD: (_State.ENDED, ((b"abcdefghijklmnopqrstuvwxyz", _State.WORD),)),
    _State.RECOVERY: (
        _State.RECOVERY,
        ((_CONTROL, _State.ENDED), (b"\t", _State.RECOVERY), (b"{}[],:" + _NEVER, _State.ENDED)),
    ),
}


def _table() -> tuple[tuple[_State, ...], ...]:
    rows = []
    for state in range(_State.RECOVERY + 1):
        default, exceptions = _RULES[_State(state)]
        row = [default] * 256
        for characters, following in exceptions:
            for character in characters:
                row[character] = following
        rows.append(tuple(row))
    return tuple(rows)


_TABLE: Final = _table()


class Lexer:
    """The tokens of one stream of bytes. It keeps at most one unfinished token."""

    def __init__(self) -> None:
        self._state = _State.START
        self._text = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of the unfinished token."""
        return len(self._text)

    def drop(self) -> None:
        """Drop the unfinished token and skip the rest of it."""
        self._text.clear()
        self._state = _State.RECOVERY

    def feed(self, data: bytes) -> Iterator[Token]:
        """Yield the tokens that `data` completes."""
        for byte in data:
            following = _TABLE[self._state][byte]
            if following is _State.ENDED:
                if self._state is not _State.RECOVERY:
                    kind = Kind.KEYWORD if self._state is _State.WORD else Kind.NUMBER
                    yield self._finish(kind)
                following = _TABLE[_State.START][byte]
            if following is _State.START or following is _State.RECOVERY:
                self._state = following
                continue
            self._text.append(byte)
            self._state = following
            if following is _State.STRUCTURAL:
                yield self._finish(Kind.STRUCTURAL)
            elif following is _State.STRING:
                yield self._finish(Kind.STRING)
            elif following is _State.ERROR:
                yield self._finish(Kind.ERROR)
                self._state = _State.RECOVERY

    def _finish(self, kind: Kind) -> Token:
        token = Token(kind, bytes(self._text))
        self._text.clear()
        self._state = _State.START
        return token
