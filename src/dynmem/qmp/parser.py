"""Turns what a QMP client sends into JSON values, and reports mistakes in the words of QEMU 7.2 and 10."""

import enum
import math
import re
from typing import Final, NamedTuple

from dynmem.limits import QMP_MESSAGE_BYTES_MAX, QMP_NESTING_MAX, QMP_TOKENS_MAX
from dynmem.qmp.lexer import Kind, Lexer, Token

INT64_MIN: Final = -(1 << 63)
UINT64_MAX: Final = (1 << 64) - 1
NESTED_TOO_DEEPLY: Final = "JSON nesting depth limit exceeded"
_WORDS: Final = {b"true": True, b"false": False, b"null": None}
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"} | {c: c for c in "\"'\\/"}
_ESCAPE: Final = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|(u)(.{0,4})|(.))"
)


class Malformed(NamedTuple):
    """Something in the stream that is not a JSON value; `desc` is QEMU's error text for it."""

    desc: str


class _ParseError(ValueError):
    """The text of a Malformed on its way up."""


class _Expect(enum.Enum):
    VALUE = enum.auto()
    FIRST_ITEM = enum.auto()  # or the end of the list
    FIRST_KEY = enum.auto()  # or the end of the object
    KEY = enum.auto()
    COLON = enum.auto()
    SEPARATOR = enum.auto()  # or the end of the list or object
    NOTHING = enum.auto()


class ValueReader:
    """Builds values from tokens as they come, and reports each when its brackets and braces balance.

    Bounded by `message_bytes_max`, a number of tokens and QEMU's nesting limit. Beyond them it drops what it
    has, reports that, and continues reading. Of an unfinished value it keeps what is built, and no tokens.
    """

    def __init__(self, *, message_bytes_max: int = QMP_MESSAGE_BYTES_MAX) -> None:
        self._limit = message_bytes_max
        self._lexer = Lexer()
        self._reset()

    def _reset(self) -> None:
        self._builder = _Builder()
        self._bytes = 0
        self._tokens = 0
        self._braces = 0
        self._brackets = 0

    def feed(self, data: bytes) -> list[object | Malformed]:
        """Return the values and mistakes that `data` completes, in order."""
        found: list[object | Malformed] = []
        for token in self._lexer.feed(data):
            found.extend(self._take(token))
        if self._bytes + self._lexer.pending_bytes > self._limit:
            self._lexer.drop()
            self._reset()
            found.append(Malformed("JSON token size limit exceeded"))
        return found

    def _take(self, token: Token) -> list[object | Malformed]:
        if token.kind is Kind.ERROR:
            self._reset()
            return [Malformed(f"JSON parse error, stray '{_shown(token.text)}'")]
        self._bytes += len(token.text)
        self._tokens += 1
        if token.kind is Kind.STRUCTURAL:
            self._braces += (token.text == b"{") - (token.text == b"}")
            self._brackets += (token.text == b"[") - (token.text == b"]")
        if self._braces + self._brackets > QMP_NESTING_MAX:
            self._reset()
            return [Malformed(NESTED_TOO_DEEPLY)]
        if self._bytes > self._limit:
            self._reset()
            return [Malformed("JSON token size limit exceeded")]
        if self._tokens > QMP_TOKENS_MAX:
            self._reset()
            return [Malformed("JSON token count limit exceeded")]
        self._builder.take(token)
        unfinished = self._braces > 0 or self._brackets > 0
        if unfinished and self._braces >= 0 and self._brackets >= 0:
            return []
        builder = self._builder
        self._reset()
        try:
            return [builder.value()]
        except _ParseError as error:
            return [Malformed(f"JSON parse error, {error}")]


class _Builder:
    """Builds one value from its tokens, without recursion: open containers are kept in a list.

    After the first mistake it takes the other tokens of the value and drops them.
    """

    def __init__(self) -> None:
        self._open: list[tuple[list[object] | dict[str, object], str]] = []
        self._inside: list[object] | dict[str, object] | None = None
        self._key = ""
        self._expect = _Expect.VALUE
        self._value: object = None
        self._mistake: _ParseError | None = None

    def take(self, token: Token) -> None:
        """Take the next token."""
        if self._mistake is not None:
            return
        try:
            self._take(token)
        except _ParseError as error:
            self._mistake = error
            self._open.clear()
            self._inside = None

    def value(self) -> object:
        """Return the value; raises what was wrong with it."""
        if self._mistake is not None:
            raise self._mistake
        if self._expect is not _Expect.NOTHING:
            raise _ParseError("expecting value")
        return self._value

    def _take(self, token: Token) -> None:
        expect, text = self._expect, token.text
        structural = token.kind is Kind.STRUCTURAL
        if expect is _Expect.NOTHING:
            raise _ParseError("expecting value")
        if expect is _Expect.COLON:
            if text != b":":
                raise _ParseError("missing : in object pair")
            self._expect = _Expect.VALUE
        elif expect is _Expect.SEPARATOR:
            self._separator(text)
        elif (expect is _Expect.FIRST_ITEM and text == b"]") or (
            expect is _Expect.FIRST_KEY and text == b"}"
        ):
            self._close()
        elif expect in (_Expect.FIRST_KEY, _Expect.KEY):
            self._take_key(token)
        elif structural and text == b"{":
            self._enter({}, _Expect.FIRST_KEY)
        elif structural and text == b"[":
            self._enter([], _Expect.FIRST_ITEM)
        else:
            self._put(_scalar(token))

    def _take_key(self, token: Token) -> None:
        opens = token.kind is Kind.STRUCTURAL and token.text in (b"{", b"[")
        key = None if opens else _scalar(token)
        if not isinstance(key, str):
            raise _ParseError("key is not a string in object")
        self._key = key
        self._expect = _Expect.COLON

    def _separator(self, text: bytes) -> None:
        listing = isinstance(self._inside, list)
        if text == b",":
            self._expect = _Expect.VALUE if listing else _Expect.KEY
        elif text == (b"]" if listing else b"}"):
            self._close()
        else:
            raise _ParseError(f"expected separator in {'list' if listing else 'dict'}")

    def _enter(self, container: list[object] | dict[str, object], expect: _Expect) -> None:
        if self._inside is not None:
            self._open.append((self._inside, self._key))
        self._inside = container
        self._expect = expect

    def _close(self) -> None:
        finished = self._inside
        self._inside = None
        if self._open:
            self._inside, self._key = self._open.pop()
        self._put(finished)

    def _put(self, value: object) -> None:
        self._expect = _Expect.SEPARATOR
        if self._inside is None:
            self._value = value
            self._expect = _Expect.NOTHING
        elif isinstance(self._inside, list):
            self._inside.append(value)
        else:
            if self._key in self._inside:
                raise _ParseError("duplicate key")
            self._inside[self._key] = value


def _scalar(token: Token) -> object:
    if token.kind is Kind.STRING:
        return _string(token.text)
    if token.kind is Kind.NUMBER:
        return _number(token.text)
    if token.kind is Kind.KEYWORD:
        if token.text not in _WORDS:
            raise _ParseError(f"invalid keyword '{_shown(token.text)}'")
        return _WORDS[token.text]
    raise _ParseError("expecting value")


def _number(text: bytes) -> int | float:
    """Return an integer if it fits 64 bits, signed or unsigned, otherwise the nearest double."""
    if text.lstrip(b"-").isdigit() and len(text) <= 20:
        whole = int(text)
        if INT64_MIN <= whole <= UINT64_MAX:
            return whole
    number = float(text)
    if math.isinf(number):
        raise _ParseError(f"number '{_shown(text)}' is out of range")
    return number


def _string(text: bytes) -> str:
    try:
        return _ESCAPE.sub(_unescape, text[1:-1].decode())
    except UnicodeDecodeError:
        raise _ParseError("invalid UTF-8 sequence in string") from None


def _unescape(match: re.Match[str]) -> str:
    high, low, unicode, digits, character = match.groups()
    if high:
        return bytes.fromhex(high + low).decode("utf-16-be")
    if not unicode:
        if character not in _ESCAPES:
            raise _ParseError("invalid escape sequence in string")
        return _ESCAPES[character]
    if re.fullmatch("[0-9a-fA-F]{4}", digits) and not 0xD800 <= int(digits, 16) < 0xE000:
        return chr(int(digits, 16))
    shown = (digits + '"')[:4]
    raise _ParseError(f"\\u{shown} is not a valid Unicode character")


def _shown(text: bytes) -> str:
    """Return the part of a malformed token to quote: up to a zero byte, as QEMU does, and cut short."""
    return text[:200].partition(b"\0")[0].decode("utf-8", "replace")
