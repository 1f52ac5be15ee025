"""The token that lets a page act: a file that nobody else can read, and what a request has of it."""

import hmac
import os
import stat
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError, NotPermittedError
from dynmem.limits import WEB_TOKEN_MAX, WEB_TOKEN_MIN

_SCHEME: Final = b"bearer"


def read_token(path: Path) -> bytes:
    """Return the token of a file. NotPermittedError if others can read it, ConfigError if it holds none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise NotPermittedError(
            f"--token-file: {path}: cannot be read ({error.strerror}): check the path and its owner"
        ) from error
    try:
        _check(path, os.fstat(descriptor))
        text = os.read(descriptor, WEB_TOKEN_MAX + 2)
    finally:
        os.close(descriptor)
    token = text.strip()
    if not WEB_TOKEN_MIN <= len(token) <= WEB_TOKEN_MAX or not all(0x21 <= each <= 0x7E for each in token):
        raise ConfigError(
            f"--token-file: {path}: a token has {WEB_TOKEN_MIN} to {WEB_TOKEN_MAX} letters, digits and signs"
            f" and no space: write one with `(umask 077; openssl rand -hex 32 > {path})`"
        )
    return token


def _check(path: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"--token-file: {path}: not a plain file: name a file")
    if info.st_uid not in (0, os.geteuid()):
        raise NotPermittedError(
            f"--token-file: {path}: belongs to another user, who can read it: name a file of your own"
        )
    # systemd gives a credential to a user by an ACL, which shows as the group's mode (systemd.exec(5)).
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    is_credential = credentials is not None and Path(credentials) in path.absolute().parents
    others = stat.S_IRWXO if is_credential else stat.S_IRWXG | stat.S_IRWXO
    if info.st_mode & others:
        raise NotPermittedError(
            f"--token-file: {path}: others can read it (mode {stat.S_IMODE(info.st_mode):04o}):"
            f" `chmod 600 {path}`, and write another token into it"
        )


def is_token(header: bytes | None, token: bytes) -> bool:
    """Return whether a header `Authorization` has the token, in a time that says nothing of it."""
    scheme, _, given = (header or b"").strip().partition(b" ")
    is_same = hmac.compare_digest(given.strip(), token)
    return is_same and scheme.lower() == _SCHEME
