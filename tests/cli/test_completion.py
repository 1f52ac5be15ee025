"""Shell completion: commands, options, and the names of the VMs of the manager that runs."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.rigs.commands import ran
from tests.rigs.managers import configured, managing
from tests.rigs.scenes import play

from dynmem.cli.vm_name import VM_NAME

BIN = Path(sys.executable).parent
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


def completed(script: Path, *words: str, socket: Path | None = None) -> list[str]:
    """Return what bash offers for the last of these words."""
    asked = f'source "{script}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dynmem_completion dynmem'
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment["DYNMEM_SOCKET"] = str(socket or "/nonexistent/api.sock")
    found = subprocess.run(
        ["bash", "-c", f'{asked}; printf "%s\\n" "${{COMPREPLY[@]}}"', "bash", *words],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert found.stderr == ""
    return found.stdout.split()


@needs_bash
def test_bash_completes_commands_options_and_names_of_vms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "dynmem.bash"

    script.write_text(ran(capsys, "completion", "bash")[1])

    async def scenario() -> None:
        path = configured(tmp_path, "observe", web="", wiki="", db="")
        async with managing(path) as manager:

            async def asked(*words: str) -> list[str]:
                return await asyncio.to_thread(completed, script, "dynmem", *words, socket=manager.socket)

            assert {"release", "reserve", "report"} <= set(await asked("re"))
            assert await asked("explain", "w") == ["web", "wiki"]
            assert await asked("pause", "web", "--f") == ["--for"]
            await manager.end()
            assert await asked("explain", "w") == []  # without a manager there are no names, and no noise

    play(scenario())


def test_only_names_that_can_be_typed_are_offered_whatever_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    vms = [{"name": "web"}, {"name": "w\x1b[2J"}, {"name": "db"}, {"name": 7}, {}, "web2"]
    monkeypatch.setattr("dynmem.manager.api.client.ask", lambda *_, **__: {"vms": vms})
    context = click.Context(click.Command("explain"))
    offered = VM_NAME.shell_complete(context, click.Argument(["name"]), "w")
    assert [each.value for each in offered] == ["web"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_in_the_same_variable(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = ran(capsys, "completion", shell)
    assert code == 0
    assert f"_DYNMEM_COMPLETE={shell}_complete" in text
