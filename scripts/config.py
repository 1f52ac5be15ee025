"""Write docs/config.md, every key of the manager's configuration: ``python -m scripts.config [--print]``."""

import textwrap
from collections.abc import Iterator
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec
from scripts.page import finish
from scripts.status import head, meanings

from dynmem.limits import MANAGER_DROP_INS_MAX
from dynmem.manager import config_file

WORDS = {
    list[str]: "list of texts",
    str: "text",
    bool: "true, false",
    int: "whole number",
    config_file.Size: "size",
    str | int | float: "duration",
}

INTRO = """# The configuration of the manager

Written by `scripts/config.py` from the classes in `src/dynmem/manager/config_file.py`; a test holds the two
equal. `dynmem run --config FILE` reads one TOML file; without the option, `/etc/dynmem/config.toml`. The
whole file is checked before anything is touched; with `--check`, `dynmem run` checks it, shows what it means
and ends. SIGHUP makes a running manager read it again: in a systemd unit, `ExecReload=kill -HUP $MAINPID`.
A file with a mistake changes nothing; `socket` and `state` change only with a restart; a VM that is no longer
in the file is left alone at the size it has. `dynmem status` says when the file has changed and was not read
again.

```toml
{example}
```

`dynmem config init` writes such a file for the VMs that it finds, `dynmem config check` checks it, and
`dynmem config show` shows every key with its value and the file that it comes from.

## In several files

Beside `config.toml`, the files `config.d/*.toml` are read in the order of their names (beside `hosts.toml`,
`hosts.d/*.toml`), at most {drop_ins}. A later file adds VMs, and replaces single keys: those of `[host]` and
`[manager]`, and those of a VM that an earlier file has under the same name. So a tool can keep the VMs in a
file of its own, and an operator raise one weight in another:

```toml
[[vm]]
name = "web"
weight = 9000
```

A mistake is reported with the file that it is in, and a drop-in that came, changed or went is noticed like a
change of the file itself.

## Sizes and unknown keys

A size is text such as "512MiB", "2G" or "1.5 GiB", or a whole number of bytes; units are binary however they
are spelled. Unknown keys are errors.
"""


def example() -> str:
    """Return the file that the module's docstring shows."""
    lines = (config_file.__doc__ or "").splitlines()
    shown = [line for line in lines if line.startswith("    ") or not line]
    return textwrap.dedent("\n".join(shown)).strip()


def in_words(kind: object) -> str:
    """Return a type in words of TOML."""
    if get_origin(kind) is Literal:
        return ", ".join(f'"{word}"' for word in get_args(kind))
    return WORDS[kind]


def default(field: msgspec.structs.FieldInfo) -> str:
    """Return a default as it would stand in the file."""
    if field.required:
        return "required"
    if field.default == "":
        return "see there"
    if isinstance(field.default, bool):
        return "`true`" if field.default else "`false`"
    return f'`"{field.default}"`' if isinstance(field.default, str) else f"`{field.default}`"


def table(name: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the lines about one table."""
    yield from head(config_file.HEADINGS[name], struct)
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    types, words = get_type_hints(struct), meanings(struct)
    for field in msgspec.structs.fields(struct):
        yield f"| `{field.name}` | {in_words(types[field.name])} | {default(field)} | {words[field.name]} |"
    yield ""


def render() -> str:
    """Return the whole document."""
    lines = [INTRO.format(example=example(), drop_ins=MANAGER_DROP_INS_MAX)]
    for name, struct in config_file.TABLES.items():
        lines.extend(table(name, struct))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    finish("config.md", render)
