"""What a monitor tells of itself is what it checks, and is written as it says."""

from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient
from tests.rigs.scenes import play

from dynmem.qmp.command import Command, checked_arguments
from dynmem.qmp.errors import QmpCommandError
from dynmem.qmp.introspection import SCHEMA_INFO, schema
from dynmem.qmp.server import QmpServer
from dynmem.qmp.types import (
    BOOL,
    EMPTY,
    INT,
    INT32,
    SIZE,
    STR,
    UINT32,
    Array,
    Enum,
    Member,
    Object,
    Type,
    read,
)

COLOURS = Enum(("red", "green"))
POINT = Object((Member("x", INT), Member("colour", COLOURS, is_optional=True)))
SHAPE = Object(
    (Member("kind", Enum(("disc", "line", "dot"))), Member("id", STR)),
    "kind",
    {
        "disc": Object((Member("radius", SIZE), Member("filled", BOOL, is_optional=True))),
        "line": Object((Member("points", Array(POINT)),)),
    },
)
DRAW = Command(lambda _: {}, SHAPE, returns=Array(POINT))


def problem(arguments: dict[str, object]) -> str:
    with pytest.raises(QmpCommandError) as caught:
        checked_arguments(DRAW, arguments)
    assert caught.value.error_class == "GenericError"
    return caught.value.desc


def test_the_tag_of_a_union_says_which_members_there_are() -> None:
    disc = {"kind": "disc", "id": "a", "radius": 4}
    assert checked_arguments(DRAW, disc) == disc
    dot = {"kind": "dot", "id": "a"}
    assert checked_arguments(DRAW, dot) == dot
    assert problem({**dot, "radius": 4}) == "Parameter 'radius' is unexpected"
    assert problem({**disc, "points": []}) == "Parameter 'points' is unexpected"


def test_what_is_wrong_is_said_in_the_order_of_declaration_and_of_the_unexpected_last() -> None:
    assert problem({"nix": 1, "id": 5}) == "Parameter 'kind' is missing"
    assert problem({"kind": 1}) == "Invalid parameter type for 'kind', expected: string"
    assert problem({"kind": "cube", "id": 1}) == "Parameter 'kind' does not accept value 'cube'"
    assert problem({"kind": "disc", "nix": 1}) == "Parameter 'id' is missing"
    assert problem({"kind": "disc", "id": None}) == "Invalid parameter type for 'id', expected: string"
    assert problem({"kind": "disc", "id": "a", "nix": 1}) == "Parameter 'radius' is missing"
    assert (
        problem({"kind": "disc", "id": "a", "radius": 1, "filled": 1, "nix": 1})
        == "Invalid parameter type for 'filled', expected: boolean"
    )
    assert problem({"kind": "disc", "id": "a", "radius": 1, "nix": 1}) == "Parameter 'nix' is unexpected"


def test_what_is_wrong_inside_is_named_with_where_it_is() -> None:
    line = {"kind": "line", "id": "a"}
    assert problem({**line, "points": {}}) == "Invalid parameter type for 'points', expected: array"
    assert problem({**line, "points": [1]}) == "Invalid parameter type for 'points[0]', expected: object"
    assert problem({**line, "points": [{"x": 1}, {}]}) == "Parameter 'points[1].x' is missing"
    assert (
        problem({**line, "points": [{"x": 1, "colour": "blue"}]})
        == "Parameter 'points[0].colour' does not accept value 'blue'"
    )
    assert problem({**line, "points": [{"x": 1, "y": 1}]}) == "Parameter 'points[0].y' is unexpected"


@pytest.mark.parametrize(
    ("declared", "value", "said"),
    [
        (INT, 1 << 63, "Invalid parameter type for 'n', expected: integer"),
        (INT, True, "Invalid parameter type for 'n', expected: integer"),
        (INT, 1.0, "Invalid parameter type for 'n', expected: integer"),
        (INT32, "1", "Invalid parameter type for 'n', expected: integer"),
        (INT32, 1 << 31, "Parameter 'n' expects int32_t"),
        (UINT32, "1", "Parameter 'n' expects uint64"),
        (UINT32, 1 << 32, "Parameter 'n' expects uint32_t"),
        (UINT32, -1, "Parameter 'n' expects uint32_t"),
        (SIZE, "1M", "Parameter 'n' expects uint64"),
        (SIZE, 1.5, "Parameter 'n' expects uint64"),
        (SIZE, None, "Parameter 'n' expects uint64"),
        (SIZE, 1 << 64, "Parameter 'n' expects uint64"),
    ],
)
def test_a_number_is_checked_by_type_and_range(declared: Type, value: object, said: str) -> None:
    with pytest.raises(QmpCommandError) as caught:
        read(declared, value, "n")
    assert caught.value.desc == said


def test_a_negative_size_is_its_twos_complement() -> None:
    assert read(SIZE, -1, "n") == (1 << 64) - 1
    assert read(SIZE, (1 << 64) - 1, "n") == (1 << 64) - 1


def test_every_type_that_is_named_is_told_once_and_told_as_the_schema_says() -> None:
    told = schema({"draw": DRAW, "look": Command(lambda _: {})}, {"DRAWN": POINT, "GONE": EMPTY})
    names = [entry["name"] for entry in told]
    assert len(names) == len(set(names))
    for entry in told:
        read(SCHEMA_INFO, entry, "entry")  # nothing missing, nothing unexpected
        assert {*references(entry)} <= {*names}
    by_name: dict[object, Any] = {entry["name"]: entry for entry in told}
    shape = by_name[by_name["draw"]["arg-type"]]
    assert shape["tag"] == "kind"
    assert [variant["case"] for variant in shape["variants"]] == ["disc", "line"]
    disc = by_name[shape["variants"][0]["type"]]
    assert disc["members"] == [
        {"name": "radius", "type": "int"},
        {"name": "filled", "type": "bool", "default": None},
    ]
    assert by_name[by_name["draw"]["ret-type"]] == {
        "name": f"[{by_name['DRAWN']['arg-type']}]",
        "meta-type": "array",
        "element-type": by_name["DRAWN"]["arg-type"],
    }


def references(entry: Any) -> list[str]:
    """The types that an entry names."""
    found = [entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry]
    if entry["meta-type"] == "object":
        found += [member["type"] for member in entry["members"]]
        found += [variant["type"] for variant in entry.get("variants", [])]
    return found


def test_a_monitor_tells_its_schema_and_that_of_its_own_commands(tmp_path: Path) -> None:
    async def scene() -> Any:
        server = QmpServer(tmp_path / "qmp", commands={"draw": DRAW}, events={"DRAWN": POINT})
        await server.start()
        client = QMPClient("test")
        await client.connect(str(server.path))
        told = await client.execute("query-qmp-schema")
        await client.disconnect()
        await server.close()
        return told

    told = play(scene())
    assert [entry["name"] for entry in told if entry["meta-type"] == "command"] == [
        "draw",
        "qmp_capabilities",
        "query-commands",
        "query-qmp-schema",
        "query-version",
    ]
    assert [entry["name"] for entry in told if entry["meta-type"] == "event"] == ["DRAWN"]
