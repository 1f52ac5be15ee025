"""Wrong usage: one sentence that names what is wrong, exit code 2, and nothing started."""

import subprocess
import sys
from pathlib import Path

import pytest


def dynmem(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dynmem", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nosuch",), "No such command 'nosuch' (see dynmem --help)"),
        (("staus",), "No such command 'staus': did you mean status?"),
        (("relase", "web"), "No such command 'relase': did you mean release?"),
        (("trace", "decoed"), "No such command 'decoed': did you mean decode?"),
        (("vm", "-m", "64M", "-devise", "x"), "No such option '-devise': did you mean -device?"),
        (("demo", "--nosuch"), "--nosuch"),
        (("demo", "--duration", "nan"), "nan is not a number of seconds from 5 to 86400"),
        (("demo", "--duration", "inf"), "inf is not a number of seconds"),
        (("demo", "--duration", "1"), "1 is not a number of seconds"),
        (("demo", "--plot", "/nonexistent/x.html"), "/nonexistent/x.html cannot be written"),
        (("vm",), "Missing option '-m' / '--memory'"),
        (("vm", "-m", "512M", "--guest", "embedded,workload=nosuch"), "workload 'nosuch' is not one of"),
        (("vm", "-m", "512M", "--guest", "embedded,foo=1"), "'foo=1' is not KEY=VALUE"),
        (("vm", "-m", "512M", "--guest", "embedded,habits=mac"), "'mac' is not one of linux, windows"),
        (("vm", "-m", "2G,maxmem=1G"), "maxmem"),
        (("vm", "-m", "64M", "-append", "quiet"), "--append 'quiet': there is no kernel that it is for"),
        (("vm", "-m", "64M", "-kernel", "k", "-guest", "embedded"), "the guest is the one of --kernel"),
        (
            ("run", "--config", "/nonexistent/hosts.toml", "--check"),
            "/nonexistent/hosts.toml: cannot be read",
        ),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    code, complaint = dynmem(*arguments)
    assert code == 2
    assert words in complaint
    assert complaint.startswith("dynmem: ")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("trace",)])
def test_without_a_command_the_help_is_shown_as_it_is(arguments: tuple[str, ...]) -> None:
    code, shown = dynmem(*arguments)
    assert code == 2
    assert shown.startswith(" ".join(("Usage: dynmem", *arguments, "[OPTIONS] COMMAND")))
    assert "dynmem: " not in shown


def test_a_log_in_a_missing_folder_names_the_folder_to_make(tmp_path: Path) -> None:
    code, complaint = dynmem("vm", "-m", "64M", "-D", str(tmp_path / "logs" / "vm.log"), "--trace", "*")
    assert code == 2
    assert f"No such file or directory: make the folder {tmp_path}/logs" in complaint


def test_a_monitors_mistyped_path_makes_no_folder_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "one" / "qmp"
    code, complaint = dynmem("vm", "-m", "64M", "--qmp", f"unix:{path},server=on,wait=off")
    assert code == 2
    assert f"{path}: cannot listen: No such file or directory: make the folder {tmp_path}/one\n" in complaint
    assert list(tmp_path.iterdir()) == []


def test_qemus_options_of_one_dash_are_read_as_those_of_two() -> None:
    """What is wrong is found behind all of them."""
    arguments = ("-name", "one", "-m", "64M", "-device", "hv-balloon,id=b", "-object", "nonsense,id=x")
    code, complaint = dynmem("vm", *arguments)
    assert code == 2
    assert "nonsense" in complaint


def test_a_pattern_that_turns_trace_events_off_is_no_option() -> None:
    code, complaint = dynmem("vm", "-m", "64M", "-trace", "*", "-trace", "-vmbus*", "-cpu", "max")
    assert (code, complaint) == (2, "dynmem: No such option '-cpu' (see dynmem vm --help)\n")


@pytest.mark.parametrize(
    "start", ["import dynmem_command; dynmem_command.main()", "import runpy; runpy.run_module('dynmem')"]
)
def test_ctrl_c_while_the_command_is_still_being_imported_ends_it_without_a_traceback(start: str) -> None:
    interrupted = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "dynmem.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
"""
    done = subprocess.run(
        [sys.executable, "-c", interrupted + start], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
