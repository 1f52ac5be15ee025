"""What a monitor answers to what a client sends: facts, taken from QEMU and held against 7.2 and 10."""

from typing import NamedTuple

GREET = b'{"execute":"qmp_capabilities"}\n'


class Row(NamedTuple):
    """Bytes that a client sends, and the answers; `negotiated` sends qmp_capabilities before."""

    name: str
    sent: bytes
    answers: list[dict[str, object]]
    negotiated: bool = True


def generic(desc: str, **identity: object) -> dict[str, object]:
    return {**identity, "error": {"class": "GenericError", "desc": desc}}


def not_found(desc: str, **identity: object) -> dict[str, object]:
    return {**identity, "error": {"class": "CommandNotFound", "desc": desc}}


def fine(**identity: object) -> dict[str, object]:
    return {"return": {}, **identity}


NOT_OBJECT = generic("QMP input must be a JSON object")
NO_VALUE = generic("JSON parse error, expecting value")
NEGOTIATE = "Expecting capabilities negotiation with 'qmp_capabilities'"
ALREADY = "Capabilities negotiation is already complete, command ignored"


def unparsable(text: str) -> dict[str, object]:
    return generic(f"JSON parse error, {text}")


NEGOTIATION = [
    Row("a command before negotiation", b'{"execute":"query-name"}', [not_found(NEGOTIATE)], False),
    Row(
        "an unknown command before negotiation",
        b'{"execute":"nix","id":1}',
        [not_found(NEGOTIATE, id=1)],
        False,
    ),
    Row(
        "an unexpected argument",
        b'{"execute":"qmp_capabilities","arguments":{"bad":1}}',
        [generic("Parameter 'bad' is unexpected")],
        False,
    ),
    Row(
        "a mistyped list of capabilities",
        b'{"execute":"qmp_capabilities","arguments":{"enable":1}}',
        [generic("Invalid parameter type for 'enable', expected: array")],
        False,
    ),
    Row(
        "a mistyped capability",
        b'{"execute":"qmp_capabilities","arguments":{"enable":[1]}}',
        [generic("Invalid parameter type for 'enable[0]', expected: string")],
        False,
    ),
    Row(
        "no capability asked for",
        b'{"execute":"qmp_capabilities","arguments":{"enable":[]},"id":"x"}',
        [fine(id="x")],
        False,
    ),
    Row("a second negotiation", b'{"execute":"qmp_capabilities","id":7}', [not_found(ALREADY, id=7)]),
]

REQUESTS = [
    Row("an unknown command", b'{"execute":"nix"}', [not_found("The command nix has not been found")]),
    Row("a command without a name", b'{"execute":""}', [not_found("The command  has not been found")]),
    Row("a missing argument", b'{"execute":"balloon"}', [generic("Parameter 'value' is missing")]),
    Row(
        "a missing argument and an unexpected one",
        b'{"execute":"balloon","arguments":{"foo":2}}',
        [generic("Parameter 'value' is missing")],
    ),
    *(
        Row(
            f"an integer given as {text.decode()}",
            b'{"execute":"balloon","arguments":{"value":' + text + b"}}",
            [generic("Invalid parameter type for 'value', expected: integer")],
        )
        for text in (
            b'"x"',
            b"1.5",
            b"1.0",
            b"1e9",
            b"true",
            b"null",
            b"[]",
            b"9223372036854775808",
            b"9" * 23,
        )
    ),
    Row(
        "an unexpected argument beside a right one",
        b'{"execute":"balloon","arguments":{"value":1,"foo":2}}',
        [generic("Parameter 'foo' is unexpected")],
    ),
    Row(
        "an error of the command's own",
        b'{"execute":"balloon","arguments":{"value":1048576},"id":4}',
        [{"id": 4, "error": {"class": "DeviceNotActive", "desc": "No balloon device has been activated"}}],
    ),
    Row("empty arguments", b'{"execute":"query-name","arguments":{}}', [fine()]),
    *(
        Row(
            f"arguments {text.decode()}",
            b'{"execute":"query-name","arguments":' + text + b"}",
            [generic("QMP input member 'arguments' must be an object")],
        )
        for text in (b"[]", b"null", b"3")
    ),
    Row(
        "a name that is a number", b'{"execute":1}', [generic("QMP input member 'execute' must be a string")]
    ),
    Row("an unknown member", b'{"exec":"x"}', [generic("QMP input member 'exec' is unexpected")]),
    Row(
        "out-of-band execution that was not negotiated",
        b'{"exec-oob":"query-name"}',
        [generic("QMP input member 'exec-oob' is unexpected")],
    ),
    Row(
        "an unknown member beside a command",
        b'{"execute":"query-name","extra":1,"id":5}',
        [generic("QMP input member 'extra' is unexpected", id=5)],
    ),
    Row("an empty object", b"{}", [generic("QMP input lacks member 'execute'")]),
    Row("only an id", b'{"id":3}', [generic("QMP input lacks member 'execute'", id=3)]),
    *(
        Row(f"{text.decode()} alone", text, [NOT_OBJECT])
        for text in (b"[]", b"1", b"null", b'"x"', b"'x'", b"-0")
    ),
    *(
        Row(f"id {name}", b'{"execute":"query-name","id":' + text + b"}", [fine(id=value)])
        for name, text, value in (
            ("null", b"null", None),
            ("true", b"true", True),
            ("a fraction", b"1.50", 1.5),
            ("negative", b"-7", -7),
            ("unsigned", b"18446744073709551615", 18446744073709551615),
            ("above 64 bits", b"18446744073709551616", 18446744073709551616.0),
            ("exponent", b"1e2", 100),
            (
                "escapes",
                b'"\\u00e9\\u0001\\ud83d\\ude00\\/\\b\\f\\n\\r\\t\\\'\\"\\\\"',
                "é\x01😀/\b\f\n\r\t'\"\\",
            ),
            ("UTF-8", '"é€"'.encode(), "é€"),
            ("nested", b'[1,{"x":[],"y":{}}]', [1, {"x": [], "y": {}}]),
        )
    ),
]

STREAM = [
    Row(
        "two commands in a line",
        b'{"execute":"query-name","id":1}{"execute":"query-name","id":2}',
        [fine(id=1), fine(id=2)],
    ),
    Row("a command over three lines", b'{"execute":\n"query-name"\n}', [fine()]),
    Row("blanks and empty lines", b"\n\r\n  \t\n", []),
    Row("single quotes", b"{'execute':'query-name'}", [fine()]),
    Row("three numbers in a line", b"1 2 3\n", [NOT_OBJECT] * 3),
    Row("a comma behind the last member", b'{"execute":"query-name",}', [NO_VALUE]),
    Row("a comma behind the last item", b"[1,]", [NO_VALUE]),
    Row("two commas", b"[1,,2]", [NO_VALUE]),
    Row("only a comma in an object", b"{,}", [NO_VALUE]),
    Row("a member without a value", b'{"a":}', [NO_VALUE]),
    *(Row(f"a lonely {text.decode()}", text, [NO_VALUE]) for text in (b"]", b"}", b":", b",")),
    Row("a list closed as an object", b"[}", [NO_VALUE]),
    Row("an object closed as a list", b'{"a":1]}', [unparsable("expected separator in dict"), NO_VALUE]),
    Row("no colon", b'{"a" 1}', [unparsable("missing : in object pair")]),
    Row("only a key", b'{"a"}', [unparsable("missing : in object pair")]),
    Row("a key that is a number", b"{1:2}", [unparsable("key is not a string in object")]),
    Row("a key without quotes", b"{a:1}", [unparsable("invalid keyword 'a'")]),
    Row("no comma in an object", b'{"a":1 "b":2}', [unparsable("expected separator in dict")]),
    Row("no comma in a list", b"[1 2]", [unparsable("expected separator in list")]),
    Row("a colon in a list", b'["a":1]', [unparsable("expected separator in list")]),
    Row("a key twice", b'{"execute":"query-name","execute":"x"}', [unparsable("duplicate key")]),
    Row("an unknown word", b"xyz\n", [unparsable("invalid keyword 'xyz'")]),
    Row("two words that touch", b"truefalse\n", [unparsable("invalid keyword 'truefalse'")]),
    Row("an upper-case letter behind a word", b"nullA\n", [NOT_OBJECT, unparsable("stray 'A'")]),
    Row("not a number", b'{"a":NaN}', [unparsable("stray 'N'"), NO_VALUE]),
    Row("a zero byte", b"{\x00}", [unparsable("stray ''"), NO_VALUE]),
    Row("bytes that are never UTF-8", b"\xff\xfe\n", [unparsable("stray '\ufffd'")] * 2),
    Row("UTF-8 outside a string", "é\n".encode(), [unparsable("stray '\ufffd'")]),
    Row("a string that is not UTF-8", b'"\xc3"', [unparsable("invalid UTF-8 sequence in string")]),
    Row("a surrogate as UTF-8", b'"\xed\xa0\x80"', [unparsable("invalid UTF-8 sequence in string")]),
    Row("a control character in a string", b'"a\x01"]', [unparsable("stray '\"a\x01'"), NO_VALUE]),
    Row("a backslash before a newline", b'"\\\n"\n', [unparsable("stray '\"\\\n'")]),
    Row("an unknown escape", b'"\\q"', [unparsable("invalid escape sequence in string")]),
    Row("half a surrogate pair", b'"\\ud83d"', [unparsable("\\ud83d is not a valid Unicode character")]),
    Row("the wrong half of a pair", b'"\\ude00"', [unparsable("\\ude00 is not a valid Unicode character")]),
    Row("an escape that is cut", b'"\\u12"', [unparsable('\\u12" is not a valid Unicode character')]),
    Row(
        "an escape that is not hexadecimal",
        b'"\\uzzzz"',
        [unparsable("\\uzzzz is not a valid Unicode character")],
    ),
    Row("a leading zero", b"01 ", [unparsable("stray '01'")]),
    Row("a hexadecimal number", b"0x10\n", [NOT_OBJECT, unparsable("invalid keyword 'x'"), NOT_OBJECT]),
    Row("a point without digits", b"1.x\n", [unparsable("stray '1.x'")]),
    Row("two points", b"1.5.5\n", [NOT_OBJECT, unparsable("stray '.'")]),
    Row("a lonely minus", b"-\n", [unparsable("stray '-\n'")]),
    Row("an exponent without digits", b"1e\n", [unparsable("stray '1e\n'")]),
    Row("a comment", b"/* */\n", [unparsable("stray '/'")]),
    Row("what follows a stray byte is skipped", b'%abc\t"x" 1]', [unparsable("stray '%'"), NO_VALUE]),
    Row("lists 1025 deep", b"[" * 1025, [generic("JSON nesting depth limit exceeded")]),
]

ROWS = [*NEGOTIATION, *REQUESTS, *STREAM]
