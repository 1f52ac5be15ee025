"""``dynmem schema``: what programs can say to the manager, and what it replies."""

import json

import click

from dynmem.errors import ExitCode


@click.command()
def schema() -> int:
    """Print the JSON Schema of the manager's socket: its requests, and its replies.

    A request is one line of JSON on a connection of its own, and so is the reply. `dynmem status --json`
    prints a reply as it is.

    \b
    Examples:
      dynmem schema > dynmem.schema.json
      dynmem schema | jq '."$defs".VmView.properties | keys'

    Exit codes: 0 OK, 2 wrong usage.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.manager.api.schema import schema as made

    click.echo(json.dumps(made(), indent=2))
    return ExitCode.OK
