"""What the emulated host of `make test-kvm` is given: what the project needs, and what runs a test."""

from pathlib import Path

from packaging.requirements import Requirement
from tests.kvm_rig.interpreter import requirements

ROOT = Path(__file__).parents[2]


def test_the_emulated_host_gets_what_the_project_needs_and_what_runs_its_tests() -> None:
    names = {Requirement(each).name for each in requirements(ROOT / "pyproject.toml")}
    assert names == {
        "click",
        "hypothesis",
        "msgspec",
        "numpy",
        "pytest",
        "pytest-timeout",
        "qemu.qmp",
        "rich",
    }
