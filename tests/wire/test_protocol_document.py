"""docs/protocol.md is what the tables say now."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_protocol_document_is_what_the_tables_say() -> None:
    command = [sys.executable, "-m", "scripts.protocol", "--print"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert made == (ROOT / "docs" / "protocol.md").read_text(), "run python -m scripts.protocol"
