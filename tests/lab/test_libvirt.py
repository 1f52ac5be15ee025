"""Setting up a real libvirt: what is missing is named, nothing is fetched unasked, and the gate insists."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from dynmem.errors import ConfigError
from dynmem.lab import libvirt, packages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A machine without any of it; what would be run is in the list."""
    ran: list[list[str]] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(libvirt, "_LIBRARIES", ())
    monkeypatch.setattr(libvirt, "_HEADER", Path("/nonexistent"))
    monkeypatch.setattr(libvirt, "has_module", lambda: False)
    monkeypatch.setattr(packages, "install", lambda names, at_terminal: ran.append(names))
    monkeypatch.setattr(packages, "run", run)
    return ran


def test_the_module_that_is_installed_is_the_one_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["libvirt"] == [libvirt.MODULE]


def test_what_is_missing_is_installed_with_apt_and_compiled_with_pip(bare: list[list[str]]) -> None:
    questions: list[str] = []

    def agree(question: str) -> bool:
        questions.append(question)
        return True

    with pytest.raises(ConfigError, match="not where Debian puts it"):  # since nothing was really installed
        libvirt.set_up(agree=agree, at_terminal=False)
    assert "libvirt-daemon libvirt-daemon-driver-qemu libvirt-dev" in questions[0]
    assert bare[0][:3] == ["libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-dev"]
    assert bare[1][1:4] == ["-m", "pip", "install"]
    assert bare[1][-1] == libvirt.MODULE


def test_nothing_is_fetched_without_leave(bare: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match="nothing was fetched"):
        libvirt.set_up(agree=lambda _: False, at_terminal=False)
    assert bare == []


@pytest.mark.parametrize(("gate", "code"), [("", 0), ("1", 1)])
def test_only_in_the_gate_is_it_a_failure_that_libvirt_cannot_be_had(
    tmp_path: Path, gate: str, code: int
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\nexit 2\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    script = scripts / "setup-libvirt"
    script.write_text((ROOT / "scripts/setup-libvirt").read_text())
    script.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "DYNMEM_GATE"}
    environment |= {"DYNMEM_GATE": gate} if gate else {}
    result = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert ("the tests that run it are skipped" in result.stderr) == (not gate)
