"""Write the man pages from the texts of ``--help``: ``python -m scripts.man [FOLDER]`` (build/man).

They are made when a package is built, and not kept beside the texts that they repeat.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from dynmem import __version__
from dynmem.cli import COMMANDS, group
from dynmem.errors import MEANINGS

FOLDER: Final = Path(__file__).resolve().parent.parent / "build" / "man"
#: What a paragraph of a help text begins with, and the section that it belongs to.
SECTIONS: Final = {
    "Example:": "EXAMPLES",
    "Examples:": "EXAMPLES",
    "Exit code": "EXIT STATUS",
    "Exit codes:": "EXIT STATUS",
}
WHOLE: Final = "dynmem"
FILES: Final = (
    ("/etc/dynmem/config.toml", "The manager's configuration: dynmem config init writes one."),
    ("/etc/dynmem/config.d/*.toml", "Further files of it, in the order of their names."),
    ("/run/dynmem/api.sock", "Where the commands reach the manager of this host."),
    ("/var/lib/dynmem", "Its journal and its history."),
)


def escaped(text: str) -> str:
    """Return a text as roff reads it: no character of it is a command, and no hyphen becomes a dash."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def commands() -> Iterator[tuple[tuple[str, ...], click.Command, str]]:
    """Yield every command with the words that call it, and one line about it."""
    yield (WHOLE,), group, (group.help or "").splitlines()[0]
    with click.Context(group, info_name=WHOLE) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield (WHOLE, name), command, COMMANDS[name][2]
            if isinstance(command, click.Group):
                for inner, each in sorted(command.commands.items()):
                    yield (WHOLE, name, inner), each, each.get_short_help_str(200)


def sections(text: str) -> dict[str, list[str]]:
    """Return the paragraphs of a help text by section, in roff."""
    found: dict[str, list[str]] = {"DESCRIPTION": [], "EXAMPLES": [], "EXIT STATUS": []}
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [line for line in paragraph.splitlines() if line.strip() != "\b"]
        if not lines:
            continue
        is_kept = "\b" in paragraph
        section = next((SECTIONS[begin] for begin in SECTIONS if lines[0].startswith(begin)), "DESCRIPTION")
        if section == "EXAMPLES":
            lines = lines[1:] if lines[0].rstrip().endswith(":") else lines
            is_kept = True
        if is_kept:
            shown = textwrap.dedent("\n".join(lines))
            found[section].append(f".nf\n{escaped(shown)}\n.fi")
        else:
            found[section].append(escaped(" ".join(line.strip() for line in lines)))
    return found


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options of a command, in roff."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield f".TP\n\\fB{escaped(record[0])}\\fR\n{escaped(' '.join(record[1].split()))}"


def page(words: tuple[str, ...], command: click.Command, line: str) -> str:
    """Return one man page."""
    name = "-".join(words)
    context = click.Context(command, info_name=" ".join(words))
    usage = " ".join(command.collect_usage_pieces(context))
    found = sections("\n\n".join(inspect.cleandoc(each) for each in (command.help, command.epilog) if each))
    parts = [
        f'.TH {name.upper()} 1 "" "dynmem {__version__}" "dynmem"\n.nh\n.ad l',
        f".SH NAME\n{escaped(name)} \\- {escaped(line[0].lower() + line[1:].rstrip('.'))}",
        f".SH SYNOPSIS\n\\fB{escaped(' '.join(words))}\\fR {escaped(usage)}",
        ".SH DESCRIPTION\n" + "\n.PP\n".join(found["DESCRIPTION"]),
    ]
    if isinstance(command, click.Group):
        inner = [(each, about) for each, _, about in commands() if each[:-1] == words]
        listed = [f".TP\n.BR {escaped('-'.join(each))} (1)\n{escaped(about)}" for each, about in inner]
        parts.append(".SH COMMANDS\n" + "\n".join(listed))
    if options_ := list(options(command, context)):
        parts.append(".SH OPTIONS\n" + "\n".join(options_))
    if found["EXAMPLES"]:
        parts.append(".SH EXAMPLES\n" + "\n.PP\n".join(found["EXAMPLES"]))
    if words == (WHOLE,):
        codes = [f".TP\n{code:d}\n{escaped(meaning)}" for code, meaning in MEANINGS.items()]
        parts.append(".SH EXIT STATUS\n" + "\n".join(codes))
        files = [f".TP\n.I {escaped(path)}\n{escaped(what)}" for path, what in FILES]
        parts.append(".SH FILES\n" + "\n".join(files))
    elif found["EXIT STATUS"]:
        parts.append(".SH EXIT STATUS\n" + "\n.PP\n".join(found["EXIT STATUS"]))
    above = "-".join(words[:-1]) or "dynmem-run"
    parts.append(f".SH SEE ALSO\n.BR {escaped(above)} (1)")
    return "\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """Return every page by the name of its file."""
    return {f"{'-'.join(words)}.1": page(words, command, line) for words, command, line in commands()}


def main() -> None:
    """Write all pages into a folder."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
    print(f"{folder}: {len(pages())} man pages")


if __name__ == "__main__":
    main()
