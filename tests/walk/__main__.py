"""Walk every interleaving of host, guest and rings at a bound: python -m tests.walk [--messages N ...]."""

import argparse
import sys
import time

from tests.walk.explore import Bound, Walk


def main() -> int:
    """Walk at the bound of the command line and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    bound = Bound()
    for name in Bound.__struct_fields__:
        parser.add_argument(f"--{name}", type=int, default=getattr(bound, name))
    bound = Bound(**vars(parser.parse_args()))
    began = time.monotonic()
    print(bound, flush=True)
    print(Walk(bound).run(), f"({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
