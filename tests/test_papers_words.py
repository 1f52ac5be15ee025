"""Commands, keys with their defaults, and fields that the pages for newcomers name are dynmem's own."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from scripts.config import default
from tests.test_papers import PAPERS, QUOTED, code_blocks

from dynmem.cli import COMMANDS
from dynmem.manager.config_file import HostTable, ManagerTable, VmTable
from dynmem.manager.step.view import StatusView, VmBooksView, VmView

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROOT = DOCS.parent
KEYS = {
    field.name: default(field).strip("`")
    for table in (HostTable, ManagerTable, VmTable)
    for field in msgspec.structs.fields(table)
}
FIELDS = {field.name for view in (StatusView, VmView, VmBooksView) for field in msgspec.structs.fields(view)}
COMMAND = re.compile(r"(?:^|[&|(;]|\bsudo )\s*dynmem ([a-z]+)", re.MULTILINE)


def tables(page: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield the tables of a page: the titles of the columns, and the rows."""
    for block in re.findall(r"(?:^\|.*\n)+", (DOCS / page).read_text(), re.MULTILINE):
        rows = [
            [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
            for line in block.splitlines()
        ]
        yield rows[0], rows[2:]


def stated_defaults(page: str) -> list[tuple[str, str]]:
    """Return the keys, and the defaults, that a page's columns "dynmem" and "default here" state."""
    return [
        (QUOTED.findall(row[2])[0], row[3])
        for titles, rows in tables(page)
        for row in rows
        if titles[2:] == ["dynmem", "default here"] and row[3]
    ]


@pytest.mark.parametrize(("page", "least"), [("coming-from.md", 20), ("proxmox.md", 8), ("libvirt.md", 5)])
def test_each_default_that_a_page_states_is_that_of_the_configuration(page: str, least: int) -> None:
    stated = stated_defaults(page)
    assert len(stated) >= least
    assert [each for each in stated if KEYS.get(each[0]) != each[1]] == []


def test_each_field_beside_another_products_figure_is_one_of_the_status() -> None:
    named = {
        word
        for titles, rows in tables("coming-from.md")
        for row in rows
        if titles[-1] == "`dynmem status --json`"
        for word in QUOTED.findall(row[-1])
    }
    assert "resident_bytes" in named
    assert named - FIELDS == set()


@pytest.mark.parametrize("paper", PAPERS)
def test_every_command_that_a_paper_names_exists(paper: str) -> None:
    text = (ROOT / paper).read_text()
    code = "\n".join(QUOTED.findall(text)) + "\n" + code_blocks(text)
    assert set(COMMAND.findall(code)) - set(COMMANDS) == set()


def test_a_command_that_does_not_exist_is_found() -> None:
    assert COMMAND.findall("dynmem no-such\nmake x && dynmem lost --all\nsudo dynmem run") == [
        "no",
        "lost",
        "run",
    ]
