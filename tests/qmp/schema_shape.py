"""What query-qmp-schema says of commands and events, as lines that two monitors can be compared by.

Types have no names there that mean anything: each is followed down to what a client may send and gets.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]


def shape(schema: Sequence[Entry]) -> dict[str, set[str]]:
    """By the name of each command and event: its members, one per line."""
    types = {entry["name"]: entry for entry in schema}
    found: dict[str, set[str]] = {}
    for entry in schema:
        if entry["meta-type"] == "command":
            lines = [f"takes {line}" for line in _members(types, entry["arg-type"], ())]
            lines += [f"gives {line}" for line in _value(types, entry["ret-type"], "", ())]
        elif entry["meta-type"] == "event":
            lines = [f"tells {line}" for line in _members(types, entry["arg-type"], ())]
        else:
            continue
        found[entry["name"]] = set(lines)
    return found


def _value(types: Mapping[str, Entry], name: str, where: str, above: tuple[str, ...]) -> Iterator[str]:
    """The lines of a value of type `name`, which is called `where`."""
    entry = types[name]
    match entry["meta-type"]:
        case "builtin":
            yield f"{where}: {entry['json-type']}"
        case "enum":
            values = [member["name"] for member in entry.get("members", ())] or entry["values"]
            yield from (f"{where}: {value!r}" for value in values)
        case "array":
            yield from _value(types, entry["element-type"], f"{where}[]", above)
        case "alternate":
            for member in entry["members"]:
                yield from _value(types, member["type"], where, above)
        case _:
            yield f"{where}: object"
            if name not in above:
                yield from (f"{where}.{line}" for line in _members(types, name, (*above, name)))


def _members(types: Mapping[str, Entry], name: str, above: tuple[str, ...]) -> Iterator[str]:
    entry = types[name]
    for member in entry.get("members", ()):
        optional = "?" if "default" in member else ""
        yield from _value(types, member["type"], f"{member['name']}{optional}", above)
    for variant in entry.get("variants", ()):
        for line in _members(types, variant["type"], above):
            yield f"({entry['tag']}={variant['case']}) {line}"
