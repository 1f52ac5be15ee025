"""Commands in the tests' own process: a start of Python less for each."""

import pytest

from dynmem.cli import main


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command of `dynmem` to its end: exit code, standard output, standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err
