"""The reply to `query-qmp-schema`: every command and event with its types (QEMU qapi/introspect.json).

It is made from the table that requests are checked against. Types are numbered, as in QEMU: their names are
not an interface.
"""

from collections.abc import Mapping
from typing import Final

from dynmem.qmp.command import Command
from dynmem.qmp.types import ANY, BOOL, STR, Array, Builtin, Enum, Member, Object, Type

Entry = dict[str, object]


def schema(commands: Mapping[str, Command], events: Mapping[str, Object]) -> list[Entry]:
    """Return the commands and events by name, then every type they use, each once."""
    writer: Final = _Writer()
    entries: list[Entry] = [
        {
            "name": name,
            "meta-type": "command",
            "arg-type": writer.name(command.arguments),
            "ret-type": writer.name(command.returns),
        }
        for name, command in sorted(commands.items())
    ]
    entries += [
        {"name": name, "meta-type": "event", "arg-type": writer.name(data)}
        for name, data in sorted(events.items())
    ]
    return entries + writer.entries


class _Writer:
    """Names types and records each type that it names."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._names: dict[int, str] = {}  # of enums and objects, by identity
        self._written: set[str] = set()  # builtins and arrays

    def name(self, declared: Type) -> str:
        """Return the name of a type."""
        if isinstance(declared, Builtin):
            self._write_once({"name": declared.name, "meta-type": "builtin", "json-type": declared.json_type})
            return declared.name
        if isinstance(declared, Array):
            element = self.name(declared.element)
            self._write_once({"name": f"[{element}]", "meta-type": "array", "element-type": element})
            return f"[{element}]"
        if id(declared) not in self._names:
            name = self._names[id(declared)] = str(len(self._names))
            entry: Entry = {"name": name}
            self.entries.append(entry)
            entry.update(_enum(declared) if isinstance(declared, Enum) else self._object(declared))
        return self._names[id(declared)]

    def _write_once(self, entry: Entry) -> None:
        if (name := str(entry["name"])) not in self._written:
            self._written.add(name)
            self.entries.append(entry)

    def _object(self, declared: Object) -> Entry:
        entry: Entry = {
            "meta-type": "object",
            "members": [
                {"name": member.name, "type": self.name(member.type)}
                | ({"default": None} if member.is_optional else {})
                for member in declared.members
            ],
        }
        if declared.tag is not None:
            entry["tag"] = declared.tag
            entry["variants"] = [
                {"case": case, "type": self.name(variant)} for case, variant in declared.variants.items()
            ]
        return entry


def _enum(declared: Enum) -> Entry:
    members = [{"name": value} for value in declared.values]
    return {"meta-type": "enum", "members": members, "values": list(declared.values)}


# the parts of an entry; this command appears in the schema, too
_MEMBER: Final = Object((Member("name", STR), Member("type", STR), Member("default", ANY, is_optional=True)))
_CASE: Final = Object((Member("case", STR), Member("type", STR)))
_VALUE: Final = Object((Member("name", STR),))
_JSON_TYPE: Final = Enum(("string", "number", "int", "boolean", "null", "object", "array", "value"))
_META_TYPES: Final = {
    "builtin": Object((Member("json-type", _JSON_TYPE),)),
    "enum": Object((Member("members", Array(_VALUE)), Member("values", Array(STR)))),
    "array": Object((Member("element-type", STR),)),
    "object": Object(
        (
            Member("members", Array(_MEMBER)),
            Member("tag", STR, is_optional=True),
            Member("variants", Array(_CASE), is_optional=True),
        )
    ),
    "alternate": Object((Member("members", Array(Object((Member("type", STR),)))),)),
    "command": Object(
        (Member("arg-type", STR), Member("ret-type", STR), Member("allow-oob", BOOL, is_optional=True))
    ),
    "event": Object((Member("arg-type", STR),)),
}
SCHEMA_INFO: Final = Object(
    (
        Member("name", STR),
        Member("meta-type", Enum(tuple(_META_TYPES))),
        Member("features", Array(STR), is_optional=True),
    ),
    "meta-type",
    _META_TYPES,
)
