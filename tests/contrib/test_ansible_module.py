"""The role's own module: files that are checked together, and replaced together or not at all."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = ROOT / "contrib/ansible/roles/dynmem/library/dynmem_config.py"
WEB = {"name": "web", "qmp": "/run/vm/web.qmp", "minimum": "128MiB", "maximum": "512MiB"}


class EndedError(Exception):
    """How a module ended: with what it returns."""


class FailedError(EndedError):
    pass


class ExitedError(EndedError):
    pass


class FakeModule:
    """What the module uses of Ansible's own class, in this process."""

    params: dict[str, Any]
    check_mode = False

    def __init__(self, argument_spec: dict[str, Any], supports_check_mode: bool) -> None:
        assert supports_check_mode
        assert set(self.params) <= set(argument_spec)
        self.params = {name: each.get("default") for name, each in argument_spec.items()} | self.params
        self.tmpdir = None

    def run_command(self, command: list[str], handle_exceptions: bool) -> tuple[int, str, str]:
        assert not handle_exceptions
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def fail_json(self, **result: Any) -> None:
        raise FailedError(result)

    def exit_json(self, **result: Any) -> None:
        raise ExitedError(result)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ansible.module_utils.basic", SimpleNamespace(AnsibleModule=FakeModule))
        patch.setitem(sys.modules, "ansible.module_utils", SimpleNamespace())
        patch.setitem(sys.modules, "ansible", SimpleNamespace())
        patch.setattr(sys, "dont_write_bytecode", True)
        spec = importlib.util.spec_from_file_location("dynmem_config", SOURCE)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
    return made


@pytest.fixture
def checker(tmp_path: Path) -> Path:
    path = tmp_path / "dynmem"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dynmem "$@"\n')
    path.chmod(0o755)
    return path


def files(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def run(module: ModuleType, *, check_mode: bool = False, **params: Any) -> tuple[type[EndedError], Any]:
    """Run the module, and return whether it failed, and what it returns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeModule, "params", params, raising=False)
        patch.setattr(FakeModule, "check_mode", check_mode)
        with pytest.raises(EndedError) as ended:
            module.main()
    return ended.type, ended.value.args[0]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
PLAIN = st.one_of(
    TEXTS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
TABLES = st.dictionaries(TEXTS, st.one_of(PLAIN, st.lists(PLAIN)))


@settings(max_examples=50)
@given(st.dictionaries(TEXTS, st.one_of(PLAIN, TABLES, st.lists(TABLES, min_size=1))))
def test_whatever_a_variable_says_is_what_dynmem_reads(module: ModuleType, said: dict[str, object]) -> None:
    assert tomllib.loads(module.as_toml(said)) == said


@pytest.mark.parametrize("said", [None, 3, {"host": {"budget": None}}, {"vm": [{"name": b"web"}]}])
def test_what_toml_has_no_word_for_is_refused(module: ModuleType, said: object) -> None:
    with pytest.raises(module.WrongError):
        module.as_toml(said)


def test_files_are_checked_with_those_that_others_wrote_before_any_is_replaced(
    module: ModuleType, checker: Path, tmp_path: Path
) -> None:
    path, folder = tmp_path / "etc" / "config.toml", tmp_path / "etc" / "config.d"
    common: dict[str, Any] = {
        "path": str(path),
        "command": str(checker),
        "main": {"host": {"budget": "1GiB"}},
    }
    ended, found = run(module, **common, drop_ins={"50-web": {"vm": [WEB]}})
    assert (ended, found["changed"]) == (ExitedError, True)
    assert found["files"] == [f"{folder}/50-web.toml", str(path)]
    assert "web" in found["summary"]
    assert run(module, **common, drop_ins={"50-web": {"vm": [WEB]}})[1]["changed"] is False
    (folder / "99-mine.toml").write_text('[[vm]]\nname = "web"\nweight = 9000\n')
    before = files(tmp_path / "etc")
    # Without the VM, what another wrote about it lacks its minimum; and what is wrong by itself is wrong.
    for wrong in ({}, {"50-web": {"vm": [{**WEB, "minimum": "1GiB"}]}}, {"50-web": "[host"}):
        ended, found = run(module, **common, drop_ins=wrong)
        assert ended is FailedError
        assert found["msg"].startswith("nothing was changed")
        assert str(folder) in found["msg"]
        assert files(tmp_path / "etc") == before
    (folder / "99-mine.toml").unlink()
    assert run(module, **common, drop_ins={})[0] is ExitedError
    assert set(files(tmp_path / "etc")) == {"config.toml"}


def test_where_there_is_no_file_an_empty_one_is_written_since_the_unit_asks_for_it(
    module: ModuleType, checker: Path, tmp_path: Path
) -> None:
    path = tmp_path / "etc" / "config.toml"
    common: dict[str, Any] = {"path": str(path), "command": str(checker)}
    ended, found = run(module, **common)
    assert ended is FailedError  # no file says what the budget is
    assert "add a [host] table" in found["msg"]
    assert run(module, **common, drop_ins={"10-fleet": {"host": {"budget": "1GiB"}}})[0] is ExitedError
    assert tomllib.loads(path.read_text()) == {}
    path.write_text("# mine\n")
    assert run(module, **common, drop_ins={"10-fleet": {"host": {"budget": "2GiB"}}})[0] is ExitedError
    assert path.read_text() == "# mine\n"


def test_without_the_check_a_wrong_file_would_be_in_place(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "etc" / "config.toml"
    ended, _ = run(module, path=str(path), command="true", main={"host": {"budget": "no size"}})
    assert ended is ExitedError
    assert tomllib.loads(path.read_text()) == {"host": {"budget": "no size"}}


def test_a_write_that_fails_half_way_leaves_every_file_as_it_was(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "etc" / "config.toml"
    common: dict[str, Any] = {"path": str(path), "command": "true"}
    assert (
        run(module, **common, main={"host": {"budget": "1GiB"}}, drop_ins={"10-a": {}, "20-b": {}})[0]
        is ExitedError
    )
    before = files(tmp_path / "etc")
    write = module._write
    written: list[Path] = []

    def full(to: Path, text: str) -> None:
        if to.is_relative_to(path.parent) and to.name == "30-c.toml" and not written:
            written.append(to)
            raise OSError(28, "No space left on device", str(to))
        write(to, text)

    monkeypatch.setattr(module, "_write", full)
    ended, found = run(
        module, **common, main={"host": {"budget": "2GiB"}}, drop_ins={"20-b": "# 2", "30-c": {}}
    )
    assert (ended, len(written)) == (FailedError, 1)
    assert "No space left" in found["msg"]
    assert files(tmp_path / "etc") == before


def test_what_others_wrote_is_neither_replaced_nor_removed(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "etc" / "config.toml"
    mine = tmp_path / "etc" / "config.d" / "50-web.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# mine\n")
    common: dict[str, Any] = {"path": str(path), "command": "true"}
    ended, found = run(module, **common, drop_ins={"50-web": {}})
    assert ended is FailedError
    assert "somebody else wrote it" in found["msg"]
    assert run(module, **common, main={"host": {}}, drop_ins={"10-fleet": {}})[0] is ExitedError
    assert run(module, **common, state="absent")[1]["files"] == [
        str(mine.parent / "10-fleet.toml"),
        str(path),
    ]
    assert files(tmp_path / "etc") == {"config.d/50-web.toml": "# mine\n"}
    mine.unlink()
    run(module, **common, state="absent")
    assert not path.parent.exists()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../x", "a b"])
def test_a_drop_in_has_a_name_and_not_a_path(module: ModuleType, tmp_path: Path, name: str) -> None:
    ended, found = run(module, path=str(tmp_path / "config.toml"), command="true", drop_ins={name: {}})
    assert ended is FailedError
    assert "make a name" in found["msg"]
    assert files(tmp_path) == {}


def test_with_check_nothing_is_written_and_a_host_without_dynmem_is_no_failure(
    module: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "etc" / "config.toml"
    common: dict[str, Any] = {
        "path": str(path),
        "command": str(tmp_path / "dynmem"),
        "main": {"host": {"budget": "1GiB"}},
    }
    ended, found = run(module, check_mode=True, **common)
    assert (ended, found["changed"]) == (ExitedError, True)
    assert "not installed yet" in found["summary"]
    assert found["diff"][0]["after"].endswith('budget = "1GiB"\n')
    assert run(module, **common)[0] is FailedError
    assert run(module, **common, incomplete=True)[0] is FailedError
    assert files(tmp_path) == {}


def test_with_check_files_that_lack_one_that_will_be_found_are_shown_and_not_checked(
    module: ModuleType, checker: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"path": str(tmp_path / "etc" / "config.toml"), "command": str(checker)}
    common["drop_ins"] = {"50-web": {"vm": [{"name": "web", "weight": 9000}]}}
    assert run(module, check_mode=True, **common)[0] is FailedError
    ended, found = run(module, check_mode=True, incomplete=True, **common)
    assert (ended, found["changed"]) == (ExitedError, True)
    assert run(module, incomplete=True, **common)[0] is FailedError
    assert not (tmp_path / "etc").exists()
