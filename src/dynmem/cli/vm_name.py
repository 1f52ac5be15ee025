"""The name of a VM on the command line, alone or with a setting of it, which shells complete."""

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


class VmSetting(VmName):
    """A setting of a VM, VM.SETTING=VALUE: any text, completed up to the value."""

    name = "setting"
    _SETTINGS: Final = ("buffer", "maximum", "minimum", "priority", "weight")

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        names = [each.value for each in super().shell_complete(ctx, param, "")]
        texts = (f"{name}.{setting}=" for name in names for setting in self._SETTINGS)
        return [CompletionItem(text) for text in texts if text.startswith(incomplete)]


#: The type of an argument or option that names a VM.
VM_NAME: Final = VmName()
#: The type of an option that names a setting of a VM.
VM_SETTING: Final = VmSetting()
