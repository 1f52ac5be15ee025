"""What is said on the manager's socket as a JSON Schema, made from the classes that say it."""

from typing import Any, Final, get_args

import msgspec

from dynmem.manager.api.messages import SCHEMA_VERSION, Refusal, Reply, Request

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE: Final = "#/$defs/{name}"


def schema() -> dict[str, Any]:
    """Return the schema of a request, and of each reply by the class that it is made of.

    A reply has two fields beside those of its class: the version of all replies, and whether it is a refusal.
    """
    kinds = (*get_args(Request), *get_args(Reply), Refusal)
    found, components = msgspec.json.schema_components(kinds, ref_template=_TEMPLATE)
    by_kind = dict(zip(kinds, found, strict=True))
    for kind in (*get_args(Reply), Refusal):
        component = components[kind.__name__]
        envelope = {"schema_version": {"const": SCHEMA_VERSION}, "ok": {"const": kind is not Refusal}}
        component["properties"] = {**envelope, **component["properties"]}
        component["required"] = [*envelope, *component["required"]]
    return {
        "$schema": DIALECT,
        "title": "The socket of dynmem run: one request a connection, one reply, each one line of JSON",
        "properties": {
            "request": {"anyOf": [by_kind[kind] for kind in get_args(Request)]},
            "reply": {"anyOf": [by_kind[kind] for kind in (*get_args(Reply), Refusal)]},
        },
        "$defs": components,
    }
