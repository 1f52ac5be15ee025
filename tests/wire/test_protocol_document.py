"""docs/protocol.md is what the tables say now."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_protocol_document_is_what_the_tables_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "protocol.py"), "--print"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert made == (ROOT / "docs" / "protocol.md").read_text(), "run scripts/protocol.py"
