"""What `dynmem config show` prints: each key of the configuration, its value, and the file that has it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dynmem.manager.config_file import HEADINGS, TABLES, vm_place
from dynmem.manager.drop_ins import Origins, read
from dynmem.manager.paths import default_socket, default_state

# The column in which the origin of a value stands.
_COLUMN = 44


def values(path: Path) -> list[dict[str, Any]]:
    """Return every key: its table, what a sentence calls it, its value, and its origin; None: the default."""
    file, origins = read(path)
    defaults = {"manager.socket": str(default_socket()), "manager.state": str(default_state())}
    single = [name for name in TABLES if name != "vm"]
    found = [each for name in single for each in _table(name, name, getattr(file, name), origins)]
    for each in found:
        each["value"] = each["value"] or defaults.get(each["key"], each["value"])
    for index, vm in enumerate(file.vm):
        found += _table("vm", vm_place(vm.name, index), vm, origins)
    return found


def _table(name: str, place: str, struct: msgspec.Struct, origins: Origins) -> Iterator[dict[str, Any]]:
    for field in struct.__struct_fields__:
        key = f"{place}.{field}"
        origin = origins.by_key.get(key)
        value = getattr(struct, field)
        yield {"table": name, "key": key, "value": value, "origin": None if origin is None else str(origin)}


def as_toml(found: Sequence[dict[str, Any]]) -> str:
    """Return the same as a configuration, with the origin of each value in a comment."""
    lines: list[str] = []
    table = ""
    for each in found:
        place, _, field = each["key"].rpartition(".")
        if place != table:
            lines += ["", HEADINGS[each["table"]]]
            table = place
        value = _value(each["value"])
        lines.append(f"{f'{field} = {value}':<{_COLUMN}} # {each['origin'] or 'default'}")
    return "\n".join(lines).strip()


def _value(value: object) -> str:
    """Return a value in TOML: JSON's, but for how characters are escaped that are not printable."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
