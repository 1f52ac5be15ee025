"""Under `python -O` there are no assertions: `import dynmem` raises, and the programs say why."""

import subprocess
import sys
from pathlib import Path

import pytest

RULE = "dynmem does not run under python -O: its assertions guard guest memory"
NEXT_STEP = "start Python without -O and unset PYTHONOPTIMIZE"
PROGRAMS = sorted(
    ".".join(("dynmem", *path.parent.relative_to(path.parents[2]).parts[1:]))
    for path in (Path(__file__).resolve().parent.parent / "src" / "dynmem").glob("*/__main__.py")
)


def optimized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python under -O and return how it ended."""
    command = [sys.executable, "-O", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_an_import_under_o_raises_an_import_error_that_the_importer_survives() -> None:
    script = (
        "try: import dynmem\n"
        "except ImportError as error: print(error)\n"
        "print('still here')\n"
    )  # fmt: skip
    done = optimized("-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{RULE}; {NEXT_STEP}\nstill here\n"


def test_the_command_under_o_ends_with_a_sentence_and_an_exit_code() -> None:
    done = optimized("-c", "from dynmem_command import main; main()", "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{RULE}; {NEXT_STEP}\n"


@pytest.mark.parametrize("program", ["dynmem", *PROGRAMS])
def test_a_program_under_o_ends_with_a_sentence_and_an_exit_code(program: str) -> None:
    done = optimized("-m", program)
    assert (done.returncode, done.stdout) == (1, "")
    assert RULE in done.stderr
    assert NEXT_STEP in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_hides_no_other_import_error() -> None:
    script = "import sys; sys.modules['click'] = None; from dynmem_command import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "click" in done.stderr
