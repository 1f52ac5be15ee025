"""Write docs/fit-snapshot.schema.json, the JSON Schema of a host's snapshot: ``python -m scripts.fit``."""

import json

from scripts.page import finish

from dynmem.fit.snapshot import schema


def render() -> str:
    """Return the whole schema."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    finish("fit-snapshot.schema.json", render)
