"""``python -m dynmem.sim --seed N``."""

import subprocess
import sys


def test_the_command_prints_the_log_of_its_seed() -> None:
    command = [sys.executable, "-m", "dynmem.sim", "--seed", "3", "--seconds", "20"]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1]
    assert "starts" in runs[0]
    assert "measured free and held" in runs[0]
    assert runs[0].splitlines()[-1].startswith("seed 3: 20 s, ")
