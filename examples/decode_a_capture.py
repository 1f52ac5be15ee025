"""Decode a capture of `dynmem vm --capture` or a trace log of QEMU: print each message, and a summary.

    python examples/decode_a_capture.py tests/captures/wire.log

The file may come from anyone: lines that cannot be read are reported by number, and the rest is decoded.
"""

import sys
from collections import Counter
from pathlib import Path

from dynmem.trace import Entry, Problem, as_text, read


def pages_in(entry: Entry) -> int:
    """Return the number of pages that a message names: its ranges are pairs of first page and count."""
    ranges = entry.fields.get("ranges")
    return sum(count for _, count in ranges) if isinstance(ranges, list) else 0


def main(path: Path) -> int:
    """Print what the file holds; return 1 when no line of it could be read."""
    counts: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    with path.open("rb") as stream:
        for item in read(stream):
            if isinstance(item, Problem):
                print(f"{path}:{item.line}: {item.text}", file=sys.stderr)
                continue
            print(as_text(item))
            counts[item.name] += 1
            pages[item.name] += pages_in(item)
    print(f"\n{counts.total()} messages and events")
    for name, count in counts.most_common():
        print(f"{count:6} {name}" + (f", {pages[name]} pages" if pages[name] else ""))
    return 0 if counts else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/decode_a_capture.py FILE")
    sys.exit(main(Path(sys.argv[1])))
