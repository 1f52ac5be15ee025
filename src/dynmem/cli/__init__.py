"""The command line: one lazy group whose commands import what they need when they run.

``dynmem status`` has to finish within 150 ms, so nothing heavy may be imported here.
"""

import importlib
import sys
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import click

from dynmem.errors import MEANINGS, DynmemError, ExitCode

COMMANDS: Final = {  # name -> (module, attribute, one line for --help)
    "completion": ("dynmem.cli.completion", "completion", "Print what a shell needs to complete commands"),
    "config": ("dynmem.cli.config", "config", "Write, check and show the configuration of the manager"),
    "demo": ("dynmem.cli.demo", "demo", "Watch virtual machines share a budget"),
    "doctor": ("dynmem.cli.doctor", "doctor", "Examine what this host can do, and what would help"),
    "duplicates": ("dynmem.cli.duplicates", "duplicates", "Count equal pages in the memory of running VMs"),
    "events": ("dynmem.cli.history", "events", "Show what happened, and why, also as it happens"),
    "explain": ("dynmem.cli.status", "explain", "Show how the size of a VM was computed"),
    "fit": ("dynmem.cli.fit", "fit", "Show how many more VMs fit, and how wrong that was so far"),
    "history": ("dynmem.cli.history", "history", "Show what a VM or the host had and needed over a time"),
    "metrics": ("dynmem.cli.metrics", "metrics", "Print the manager's metrics, as Prometheus reads them"),
    "pause": ("dynmem.cli.status", "pause", "Leave VMs exactly as they are for a while"),
    "plan": ("dynmem.cli.plan", "plan", "Show what would be done now, and with other settings"),
    "release": ("dynmem.cli.status", "release", "Grow VMs to their full size and leave them alone"),
    "report": ("dynmem.cli.report", "report", "Show what was needed, and how many more VMs would fit"),
    "reserve": ("dynmem.cli.status", "reserve", "Make room for a VM that is about to start"),
    "run": ("dynmem.cli.run", "run", "Run the memory manager of this host"),
    "scan": ("dynmem.cli.scan", "scan", "Show what the VMs of this host hold and could give back"),
    "schema": ("dynmem.cli.schema", "schema", "Print the JSON Schema of the manager's socket"),
    "simulate": (
        "dynmem.cli.simulate",
        "simulate",
        "Play a load under the manager's rules and others",
    ),
    "status": ("dynmem.cli.status", "status", "Show how much memory each VM has, and why"),
    "top": ("dynmem.cli.top", "top", "Watch what each VM needs and has, or write it as CSV"),
    "trace": ("dynmem.cli.trace", "trace", "Read captures and trace logs"),
    "vm": ("dynmem.cli.vm", "vm", "Run one virtual machine with dynamic memory"),
    "web": ("dynmem.cli.web", "web", "Serve a page that shows what each VM needs and has"),
}

# A code stays on the line of its meaning.
_CODES: Final = ", ".join(
    f"{code:d} {text}".replace(" ", "\N{NO-BREAK SPACE}") for code, text in MEANINGS.items()
)
_EXIT_CODES: Final = textwrap.fill(f"Exit codes: {_CODES}.", 95).replace("\N{NO-BREAK SPACE}", " ")
EPILOG: Final = f"""\b
Examples:
  dynmem demo                        three VMs share a budget for a minute
  dynmem scan                        what the VMs of this host hold and could give back
  dynmem run --config hosts.toml     watch, advise or manage, by its mode
  dynmem status                      how much each VM has, and why
  dynmem explain web                 the whole arithmetic of one VM
  dynmem doctor                      what this host can do, and what would help

\b
{_EXIT_CODES}
"""


class HintingGroup(click.Group):
    """A group that knows what a mistyped command was meant to be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            close = get_close_matches(args[0], self.list_commands(ctx), 1)
            if not close:
                raise
            raise click.UsageError(f"No such command '{args[0]}': did you mean {close[0]}?", ctx) from None


class LazyGroup(HintingGroup):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in sorted(COMMANDS.items())])


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the version and end."""
    del parameter
    if value:
        from dynmem.built import version

        click.echo(version())
        context.exit()


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and what it was built from, and exit.",
)
def group() -> None:
    """Share the memory of a KVM host among its virtual machines by demand."""


#: What click raises for a group without a command; before 8.2 it prints the help itself and raises nothing.
_NO_COMMAND: Final = getattr(click.exceptions, "NoArgsIsHelpError", ())


def _sentence(error: click.ClickException) -> str:
    """Return click's message without its full stop: more text follows."""
    return error.format_message().rstrip(".")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A deliberate error ends it with one sentence on stderr and an exit code."""
    try:
        result = group.main(arguments, prog_name="dynmem", standalone_mode=False)
    except DynmemError as error:
        click.echo(f"dynmem: {error}", err=True)
        sys.exit(error.exit_code)
    except _NO_COMMAND as error:
        click.echo(error.format_message(), err=True)
        sys.exit(ExitCode.USAGE)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "dynmem"
        click.echo(f"dynmem: {_sentence(error)} (see {where} --help)", err=True)
        sys.exit(ExitCode.USAGE)
    except click.ClickException as error:
        click.echo(f"dynmem: {_sentence(error)}", err=True)
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.INTERRUPTED)
    sys.exit(result if isinstance(result, int) else ExitCode.OK)
