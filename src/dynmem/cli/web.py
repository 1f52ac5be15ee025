"""``dynmem web``: the page of the running manager, served by a process of its own."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli.options import socket_option, state_option
from dynmem.errors import ConfigError, DynmemError, quoted
from dynmem.manager.paths import default_socket, default_state

if TYPE_CHECKING:
    from dynmem.manager.address import Address

MISSING: Final = (
    "the page needs starlette and uvicorn, which are not installed: run `pip install dynmem[web]`"
)
_EXTRA: Final = frozenset({"starlette", "uvicorn", "h11", "anyio"})
LISTEN: Final = "127.0.0.1:8737"


@click.command()
@click.option(
    "--listen", default=LISTEN, show_default=True, metavar="ADDRESS:PORT", help="Where browsers reach it."
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name by which browsers reach it, such as a proxy's; may be given more than once.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Pages that know the token in FILE may pause, release and reserve.",
)
@state_option
@socket_option
def web(
    path: Path | None, state: Path | None, listen: str, names: tuple[str, ...], token_file: Path | None
) -> int:
    """Serve a page that shows what each VM needs and has, live and over time.

    It needs starlette and uvicorn: `pip install dynmem[web]`. It asks the running manager and reads the file
    of its history, and works without either: the page says what is missing. Nothing can be changed from
    there, unless there is a token. Only this host reaches it by default: from elsewhere use `ssh -L
    8737:127.0.0.1:8737 HOST`, or a proxy with TLS. Ctrl-C and SIGTERM end it.

    \b
    Examples:
      dynmem web                                     and then http://localhost:8737
      dynmem web --socket /run/dynmem/status.sock
      dynmem web --name vmhost.example.org --token-file /etc/dynmem/web-token

    Exit codes: 0 ended by SIGTERM, 1 without starlette or uvicorn, 2 wrong usage, 4 not permitted, or others
    can read the token, 5 another program listens there, 130 Ctrl-C.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    address = _address(listen)
    try:
        from dynmem.web.serve import listening, serve
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise DynmemError(MISSING) from error
    import asyncio

    from dynmem.cli.explain_at import page_of
    from dynmem.cli.explain_text import explained
    from dynmem.manager.address import Address
    from dynmem.web.app import Settings
    from dynmem.web.files import page_files
    from dynmem.web.seldom import Seldom
    from dynmem.web.token import read_token

    settings = Settings(
        socket=path or default_socket(),
        state=state or default_state(),
        token=None if token_file is None else read_token(token_file),
        names=tuple(_name(each) for each in names),
        files=page_files(),
        explained=explained,
        explained_at=page_of,
    )
    log = logging.StreamHandler(sys.stderr)
    log.addFilter(Seldom())
    logging.basicConfig(level=logging.ERROR, handlers=[log], format="dynmem: %(message)s")
    with listening(address) as at:
        taken = Address(*at.getsockname()[:2])
        if not taken.is_loopback:
            click.echo(f"dynmem: note: {_open_to_all(taken, has_token=token_file is not None)}", err=True)

        def started() -> None:
            acts = "read-only" if token_file is None else "acts with the token"
            click.echo(
                f"the page is at http://{taken}/ ({acts}); manager {settings.socket},"
                f" history {settings.state}; Ctrl-C ends it"
            )

        return asyncio.run(serve(settings, at, started))


def _address(text: str) -> "Address":
    from dynmem.manager.address import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise ConfigError(f"--listen: {error}") from error


def _name(text: str) -> str:
    name = text.rstrip(".").lower()
    if not name or not all(each.isalnum() or each in "-." for each in name) or not name.isascii():
        raise ConfigError(
            f"--name: {quoted(text)} is not the name of a host: leave out scheme, port and path"
        )
    return name


def _open_to_all(address: "Address", *, has_token: bool) -> str:
    token = ", and whoever listens on the way can read the token" if has_token else ""
    return (
        f"every host that reaches {address} sees what the VMs have and need{token}: where that is not meant,"
        f" listen on {LISTEN} and use `ssh -L` or a proxy with TLS (docs/web.md)"
    )
