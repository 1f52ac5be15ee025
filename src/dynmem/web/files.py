"""The files of the page: read once, at the start, and known by their names; nothing else is ever served."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from dynmem.errors import ConfigError
from dynmem.limits import WEB_FILE_BYTES_MAX, WEB_FILES_MAX

FOLDER: Final = Path(__file__).parent / "page"
#: The page itself.
INDEX: Final = "index.html"
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",  # LICENSE
}


class PageFile(msgspec.Struct, frozen=True):
    """A file as it is served.

    Attributes:
        content: Its bytes.
        content_type: What they are.
        etag: By which a browser knows that it has them already.
    """

    content: bytes
    content_type: str
    etag: str


def page_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """Return the files of the page by their names, such as "uplot/uPlot.js". ConfigError."""
    found: dict[str, PageFile] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in _TYPES or path.is_symlink() or not path.is_file():
            continue
        if len(found) == WEB_FILES_MAX or path.stat().st_size > WEB_FILE_BYTES_MAX:
            raise ConfigError(f"{path}: too large or too many for a page: install dynmem again")
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        found[path.relative_to(folder).as_posix()] = PageFile(content, _TYPES[path.suffix], etag)
    return found
