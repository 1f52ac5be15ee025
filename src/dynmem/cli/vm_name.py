"""The name of a VM on the command line, which shells complete."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.errors import DynmemError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# A key was pressed: beside a manager that hangs, the user types the name.
_PATIENCE_S: Final = 0.5


class VmName(click.ParamType[str]):
    """The name of a VM: any text, completed by the names of the running manager's VMs."""

    name = "vm"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        del param
        from click.shell_completion import CompletionItem

        from dynmem.manager.api.client import ask
        from dynmem.manager.paths import default_socket

        path = ctx.params.get("path")
        try:
            reply = ask(
                path if isinstance(path, Path) else default_socket(),
                {"command": "status"},
                timeout_s=_PATIENCE_S,
            )
        except (DynmemError, OSError):
            return []  # no manager, no names
        names = [vm.get("name") for vm in reply.get("vms", ()) if isinstance(vm, dict)]
        return [
            CompletionItem(name)
            for name in names
            if isinstance(name, str) and name.startswith(incomplete) and name.isprintable()
        ]


#: The type of an argument or option that names a VM.
VM_NAME: Final = VmName()
