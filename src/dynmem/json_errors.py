"""What decoding bytes that are not JSON can raise, for every reader of what guests, peers and files send.

msgspec's own error is not all of it: text that is not UTF-8 and deep nesting raise Python's.
"""

from typing import Final

import msgspec

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
