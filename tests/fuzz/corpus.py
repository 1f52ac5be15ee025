"""The inputs found by coverage-guided runs and kept in corpus/NAME.hex, one a line: further seeds."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus"


def load(name: str) -> tuple[bytes, ...]:
    """The kept inputs of a target, in the file's order; none when there is no file."""
    path = FOLDER / f"{name}.hex"
    return tuple(bytes.fromhex(line) for line in path.read_text().splitlines()) if path.is_file() else ()


def save(name: str, inputs: list[bytes]) -> None:
    """Replace the kept inputs of a target, shortest first; with none there is no file."""
    if not inputs:
        (FOLDER / f"{name}.hex").unlink(missing_ok=True)
        return
    ordered = sorted(inputs, key=lambda data: (len(data), data))
    (FOLDER / f"{name}.hex").write_text("".join(f"{data.hex()}\n" for data in ordered))
