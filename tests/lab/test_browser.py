"""Setting up a browser: what is missing is named, nothing is fetched unasked, and the gate insists."""

import os
import subprocess
from pathlib import Path

import pytest

from dynmem.errors import ConfigError
from dynmem.lab import browser, packages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A machine without any of it; what would be installed is in the list."""
    installed: list[list[str]] = []
    monkeypatch.setattr(browser, "_BROWSER", "no-such-browser")
    monkeypatch.setattr(browser, "_DRIVER", "no-such-driver")
    monkeypatch.setattr(browser, "_FONTS", (Path("/nonexistent"),))
    monkeypatch.setattr(packages, "install", lambda names, at_terminal: installed.append(names))
    return installed


def test_a_browser_its_driver_and_a_font_are_installed_where_they_are_missing(bare: list[list[str]]) -> None:
    questions: list[str] = []

    def agree(question: str) -> bool:
        questions.append(question)
        return True

    with pytest.raises(ConfigError, match="not where Debian puts it"):  # since nothing was really installed
        browser.set_up(agree=agree, at_terminal=False)
    assert "chromium chromium-driver fonts-dejavu-core" in questions[0]
    assert bare == [["chromium", "chromium-driver", "fonts-dejavu-core"]]


def test_no_browser_is_fetched_without_leave(bare: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match="nothing was fetched"):
        browser.set_up(agree=lambda _: False, at_terminal=False)
    assert bare == []


@pytest.mark.parametrize(("gate", "code"), [("", 0), ("1", 1)])
def test_only_in_the_gate_is_it_a_failure_that_a_browser_cannot_be_had(
    tmp_path: Path, gate: str, code: int
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\nexit 2\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    script = scripts / "setup-browser"
    script.write_text((ROOT / "scripts/setup-browser").read_text())
    script.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "DYNMEM_GATE"}
    environment |= {"DYNMEM_GATE": gate} if gate else {}
    result = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert ("the tests that drive one are skipped" in result.stderr) == (not gate)
