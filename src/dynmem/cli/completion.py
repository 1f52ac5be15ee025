"""``dynmem completion``: what a shell needs to complete commands, options and the names of VMs."""

from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from dynmem.errors import ExitCode

SHELLS: Final = ("bash", "zsh", "fish")
#: In which the shell asks for completions.
VARIABLE: Final = "_DYNMEM_COMPLETE"


def script(shell: str) -> str:
    """Return what one of the shells reads."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(click.Command("dynmem"), {}, "dynmem", VARIABLE)
    # click's own `source` of bash starts a bash to find out its version.
    return ShellComplete.source(made)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> int:
    """Print what SHELL needs to complete commands, options and the names of the manager's VMs.

    \b
    Examples:
      dynmem completion bash > /etc/bash_completion.d/dynmem
      dynmem completion zsh > /usr/local/share/zsh/site-functions/_dynmem
      dynmem completion fish > ~/.config/fish/completions/dynmem.fish

    Exit codes: 0 OK, 2 wrong usage.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    click.echo(script(shell))
    return ExitCode.OK
