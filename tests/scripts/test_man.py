"""The man pages: one for each command, of the same texts as its help, that groff reads without a warning."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from dynmem.cli import COMMANDS, group
from dynmem.errors import MEANINGS
from scripts import man

PAGES = man.pages()
COMMAND = {"-".join(words): (words, command) for words, command, _ in man.commands()}
needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff here")


def plain(text: str) -> str:
    """Return words and nothing else: roff and a terminal break and escape them in their own ways."""
    return " ".join(re.findall(r"[a-z0-9]+", re.sub(r"\\(f[br]|&|e)", "", text.lower())))


def test_every_command_has_a_page() -> None:
    assert {f"{name}.1" for name in COMMAND} == set(PAGES)
    assert {f"dynmem-{name}.1" for name in COMMANDS} <= set(PAGES)
    for name in COMMANDS:
        assert f"dynmem\\-{name} (1)" in PAGES["dynmem.1"]


@pytest.mark.parametrize("name", COMMAND)
def test_a_page_has_all_that_the_help_says(name: str) -> None:
    words, command = COMMAND[name]
    page = plain(PAGES[f"{name}.1"])
    shown = CliRunner().invoke(group, [*words[1:], "--help"], terminal_width=10_000).output
    for paragraph in re.split(r"\n\s*\n", f"{command.help}\n\n{command.epilog or ''}"):
        shown_there = re.sub(r"^\s*\x08?\s*Examples?:$", "", paragraph, flags=re.MULTILINE)
        if name != "dynmem" or "Exit codes" not in paragraph:  # a table of its own
            assert plain(shown_there) in page
    for option in re.findall(r"^  (?:-\w, )?(--[a-z-]+)", shown, re.MULTILINE):
        assert plain(option) in page
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"):
        assert f".SH {heading}\n" in PAGES[f"{name}.1"]
    if "Examples:" in shown:
        assert ".SH EXAMPLES" in PAGES[f"{name}.1"]
    if "Exit codes:" in shown:
        assert ".SH EXIT STATUS" in PAGES[f"{name}.1"]


def test_the_page_of_all_has_every_exit_code() -> None:
    text = PAGES["dynmem.1"]
    assert all(f".TP\n{code:d}\n{man.escaped(meaning)}\n" in text for code, meaning in MEANINGS.items())


def test_a_text_is_never_a_command_of_roff() -> None:
    assert man.escaped(".de\n'br\n\\fB -x") == "\\&.de\n\\&'br\n\\efB \\-x"


@needs_groff
def test_groff_has_no_warning_about_any_of_them(tmp_path: Path) -> None:
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in PAGES]
    found = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", *files], check=True, capture_output=True, text=True
    )
    assert found.stderr == ""
