"""The exit codes: one table, the same for the commands, their help and the page about the service."""

import re
from pathlib import Path

from click.testing import CliRunner

from dynmem import errors
from dynmem.cli import group
from dynmem.errors import MEANINGS, DynmemError, ExitCode

PAGE = Path(__file__).resolve().parent.parent / "docs" / "service.md"


def test_the_page_s_table_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert [(int(code), meaning) for code, meaning in rows] == list(MEANINGS.items())


def test_every_exit_code_has_a_meaning_in_the_help() -> None:
    assert list(MEANINGS) == list(ExitCode)
    shown = " ".join(CliRunner().invoke(group, ["--help"]).output.split())
    assert all(f"{code:d} {meaning}" in shown for code, meaning in MEANINGS.items())


def test_every_deliberate_error_ends_a_command_with_one_of_them() -> None:
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, DynmemError)
    ]
    assert len(kinds) > 5
    assert all(kind.exit_code in MEANINGS and kind.exit_code != ExitCode.OK for kind in kinds)
