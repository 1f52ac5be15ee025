"""``dynmem vm``: run one virtual machine."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from dynmem.vm.options.machine import VmOptions

# The manager waits 30 s for room, and then has its reply to send.
_ADMISSION_S: Final = 50.0

EPILOG = """\b
Examples:
  dynmem vm --name one -m 512M --device hv-balloon,id=hvb,status-report=on \\
      --qmp unix:/tmp/one/qmp.sock,server=on,wait=off \\
      --guest embedded,workload=sine,period=20s --serial file:/tmp/one/serial
  dynmem vm --name quiet -m 1G --device hv-balloon,status-report=on \\
      --qmp unix:/tmp/quiet/qmp.sock,server=on,wait=off --guest embedded,workload=idle
  dynmem vm --name grows -m 256M,maxmem=8G --device hv-balloon,status-report=on \\
      --qmp unix:/tmp/grows/qmp.sock,server=on,wait=off
  dynmem vm --name seen -m 512M --device hv-balloon --trace 'hv_balloon*' -D seen.log --capture seen.capture
  dynmem vm --name linux -m 1G,maxmem=8G -smp 2 --device hv-balloon,status-report=on \\
      --kernel vmlinuz --initrd initrd.img --append quiet --serial stdio

\b
Talk to it with any QMP client; balloon takes bytes:
  {"execute": "qmp_capabilities"}
  {"execute": "balloon", "arguments": {"value": 268435456}}
  {"execute": "query-balloon"}
dynmem's own commands: x-query-hv-balloon (state, last operations, free pages reported), x-hot-remove,
x-query-channels, x-query-faults, x-punch-zero-pages (of a stopped VM).

\b
With maxmem above its size, a VM grows past its boot size by hot add. That memory comes from a backend that
you make and name as memdev. Without memdev, DIMMs and slots, the VM makes one itself (id hv-balloon-memory,
maxmem minus size). A DIMM needs a slot and a backend:
  -m 256M,maxmem=2G,slots=1 --object memory-backend-ram,id=m,size=1G --device pc-dimm,id=d,memdev=m

Long options may have one dash, as in QEMU, or two.

The embedded guest is a process of this package that behaves like a guest. It is meant for trials and tests.
With --kernel the guest is that kernel, on KVM.

Exit codes: 0 ended by quit on its monitor, by SIGTERM, by Ctrl-C or by its guest; 1 its guest died, or
crashed with --action panic=exit-failure; 2 an option is wrong, or needs more than the host can give; with
--manager: 3 no manager is there, 5 it can have no room, 7 it has none in time. Ended by
SIGBUS (135 in a shell): a memory file ran out of space, and the log says which.
"""


class QemuStyle(click.Command):
    """A command whose long options may have one dash, as QEMU's have, or two."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spellings = (each for parameter in self.params for each in parameter.opts)
        long = {each[1:]: each for each in spellings if each.startswith("--")}
        try:
            return super().parse_args(ctx, [long.get(each, each) for each in args])
        except click.NoSuchOption as error:
            # of "-smp" click reads the first letter alone
            meant = next((each for each in args if each.startswith(error.option_name)), error.option_name)
            if meant == error.option_name or meant.startswith("--"):
                raise
            close = get_close_matches(meant, long, 1, cutoff=0.8)
            hint = f": did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"No such option '{meant}'{hint}", ctx) from None


@click.command(cls=QemuStyle, epilog=EPILOG)
@click.option("--name", default="vm", show_default=True, metavar="NAME", help="The VM's name.")
@click.option(
    "-m",
    "--memory",
    required=True,
    metavar="SIZE[,maxmem=SIZE][,slots=N]",
    help="Memory at boot, its maximum, and slots for DIMMs. A bare number is in MiB.",
)
@click.option(
    "--object",
    "objects",
    multiple=True,
    metavar="memory-backend-ram|-memfd|-file,id=ID,size=SIZE[,KEY=VALUE...]",
    help="Make a memory backend. Keys: share, prealloc; hugetlb, hugetlbsize (-memfd); mem-path, discard-data"
    " (-file). A bare size is in bytes.",
)
@click.option(
    "--machine",
    default="",
    metavar="[embedded|kvm,]memory-backend=ID",
    help="Use this --object as boot memory instead of the VM's own. The type is kvm with --kernel, and"
    " embedded otherwise.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="hv-balloon|pc-dimm[,KEY=VALUE...]",
    help="Add a device. hv-balloon: id, status-report=on|off, free-page-reporting=on|off (on), memdev=ID,"
    " addr=ADDRESS, x-post-init-wait=MS, x-startup=boot|last (the size after a reset)."
    " pc-dimm: id, memdev=ID, addr=ADDRESS, slot=N, node=N.",
)
@click.option(
    "--qmp",
    metavar="unix:PATH,server=on,wait=off",
    help="Serve a monitor on a unix socket, to several clients at once; its folder must exist.",
)
@click.option(
    "--manager",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Ask the memory manager on this socket for admission, and start only if there is room: exit code 5"
    " if there can be none, 7 if there is none in 30 s. --name and --qmp are those of the manager's file.",
)
@click.option(
    "--kernel",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Boot this Linux kernel (bzImage, or ELF with a PVH entry) on KVM.",
)
@click.option(
    "--initrd", type=click.Path(path_type=Path), metavar="FILE", help="The kernel's initial file system."
)
@click.option(
    "--append",
    metavar="TEXT",
    help="The end of the kernel's command line, which begins with: console=ttyS0 no_timer_check pci=off",
)
@click.option(
    "--smp", default="1", show_default=True, metavar="N", help="Virtual processors of a guest with --kernel."
)
@click.option(
    "--guest",
    metavar="embedded[,workload=NAME][,seed=N][,KEY=VALUE...]",
    help="The guest without --kernel, and its workload; further keys belong to the workload. habits=windows:"
    " with the documented habits of Windows, which needs x-post-init-wait=50000.  [default: embedded]",
)
@click.option(
    "--serial",
    default="none",
    show_default=True,
    metavar="stdio|file:PATH|unix:PATH,server=on,wait=off|none",
    help="Where the guest's serial console is; on stdio, Ctrl-A x ends the VM. The embedded guest writes a"
    " JSON line about every 200 ms to a file.",
)
@click.option(
    "--vmbus-version",
    default="5.3",
    show_default=True,
    metavar="MAJOR.MINOR",
    help="The newest VMBus version that the guest may use.",
)
@click.option("--no-reboot", is_flag=True, help="End instead of a reset: --action reboot=shutdown.")
@click.option(
    "--action",
    "actions",
    multiple=True,
    metavar="[panic=shutdown|exit-failure|pause|none][,reboot=reset|shutdown]",
    help="What a crash of the guest (panic) and a reset lead to; the first word is the default. none only"
    " reports a crash: a guest with kdump needs that.",
)
@click.option(
    "--trace",
    "trace",
    multiple=True,
    metavar="PATTERN",
    help="Log QEMU's trace events that match, like 'hv_balloon*'; -PATTERN turns events off again.",
)
@click.option(
    "-D",
    "log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write trace events to FILE instead of standard error.",
)
@click.option(
    "--capture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Record every VMBus message and packet; read them with `dynmem trace decode FILE`.",
)
def vm(
    name: str,
    memory: str,
    objects: tuple[str, ...],
    machine: str,
    devices: tuple[str, ...],
    qmp: str | None,
    manager: Path | None,
    kernel: Path | None,
    initrd: Path | None,
    append: str | None,
    smp: str,
    guest: str | None,
    serial: str,
    vmbus_version: str,
    no_reboot: bool,
    actions: tuple[str, ...],
    trace: tuple[str, ...],
    log: Path | None,
    capture: Path | None,
) -> int:
    """Run one virtual machine with dynamic memory until it ends."""
    from dynmem.errors import ConfigError
    from dynmem.vm.options import actions as action_options
    from dynmem.vm.options import boot as boot_options
    from dynmem.vm.options import combinations, console
    from dynmem.vm.options import machine as options
    from dynmem.vm.options import memory as memory_options

    balloon, dimms = options.parse_devices(devices)
    boot = boot_options.parse_boot(kernel, initrd, append)
    if boot is not None and guest is not None:
        raise ConfigError(f"--guest {guest!r}: the guest is the one of --kernel: leave one of them out")
    parsed = options.VmOptions(
        name=options.parse_name(name),
        memory=memory_options.parse_memory(memory),
        objects=memory_options.parse_objects(objects),
        memory_backend=options.parse_machine(machine, options.machine_type(boot)) if machine else None,
        balloon=balloon,
        dimms=dimms,
        qmp=options.parse_qmp(qmp) if qmp is not None else None,
        boot=boot,
        guest=options.parse_guest(guest or options.EMBEDDED),
        vp_count=boot_options.parse_processors(smp),
        vmbus_version=boot_options.parse_vmbus_version(vmbus_version),
        console=console.parse_serial(serial),
        actions=action_options.parse_actions(actions, no_reboot=no_reboot),
        trace=options.parse_trace(trace),
        log=log,
        capture=capture,
    )
    combinations.check(parsed)
    if boot is None and parsed.guest.program is None:
        _check_workload(guest or options.EMBEDDED, parsed.guest.workload)
    if manager is not None:
        _admitted(manager, parsed)
    from dynmem.vm.main import run

    return run(parsed)


def _admitted(manager: Path, options: "VmOptions") -> None:
    """Ask the manager for room, which it keeps until the VM is there and has reported.

    It is asked before anything of the VM is made: a VM that is refused has taken nothing of the host.
    """
    from dynmem.errors import ConfigError
    from dynmem.manager.api.client import ask

    if options.qmp is None:
        raise ConfigError("--manager: the manager reaches a VM by its monitor: add --qmp unix:PATH,...")
    sizes = {each.identity: each.size for each in options.objects}
    plugged = sum(sizes.get(each.memdev, 0) for each in options.dimms)
    request = {
        "command": "admit",
        "name": options.name,
        "size_bytes": options.memory_bytes + plugged,
        "monitor": os.path.realpath(options.qmp),
    }
    ask(manager, request, timeout_s=_ADMISSION_S)


def _check_workload(text: str, workload: str) -> None:
    """Reject what the embedded guest would reject, before a machine is made."""
    from dynmem.errors import ConfigError
    from dynmem.guest.options import parse_options

    try:
        parse_options(workload)
    except ConfigError as error:
        raise ConfigError(f"--guest {text!r}: {error}") from None
