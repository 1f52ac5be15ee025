"""``dynmem vm``: run one virtual machine."""

from difflib import get_close_matches
from pathlib import Path

import click

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

\b
Talk to it with any QMP client; balloon takes bytes:
  {"execute": "qmp_capabilities"}
  {"execute": "balloon", "arguments": {"value": 268435456}}
  {"execute": "query-balloon"}
dynmem's own commands: x-query-hv-balloon (state and last operations), x-hot-remove, x-query-channels,
x-query-faults.

\b
With maxmem above its size, a VM grows past its boot size by hot add. That memory comes from a backend that
you make and name as memdev. Without memdev, DIMMs and slots, the VM makes one itself (id hv-balloon-memory,
maxmem minus size). A DIMM needs a slot and a backend:
  -m 256M,maxmem=2G,slots=1 --object memory-backend-ram,id=m,size=1G --device pc-dimm,id=d,memdev=m

Long options may have one dash, as in QEMU, or two.

The embedded guest is a process of this package that behaves like a guest. It is meant for trials and tests.

Exit codes: 0 ended by quit on its monitor, by SIGTERM or by Ctrl-C; 1 its guest died; 2 an option is wrong,
or needs more than the host can give. Ended by SIGBUS (135 in a shell): a memory file ran out of space, and
the log says which.
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
    metavar="[embedded,]memory-backend=ID",
    help="Use this --object as boot memory instead of the VM's own. The only machine type is embedded.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="hv-balloon|pc-dimm[,KEY=VALUE...]",
    help="Add a device. hv-balloon: id, status-report=on|off, memdev=ID, addr=ADDRESS, x-post-init-wait=MS,"
    " x-startup=boot|last (the size after a reset). pc-dimm: id, memdev=ID, addr=ADDRESS, slot=N, node=N.",
)
@click.option(
    "--qmp",
    metavar="unix:PATH,server=on,wait=off",
    help="Serve a monitor on a unix socket, to several clients at once; its folder must exist.",
)
@click.option(
    "--guest",
    default="embedded",
    show_default=True,
    metavar="embedded[,workload=NAME][,seed=N][,KEY=VALUE...]",
    help="The guest and its workload; further keys belong to the workload.",
)
@click.option(
    "--serial",
    default="none",
    show_default=True,
    metavar="file:PATH|none",
    help="Where to write the guest's console: a JSON line about every 200 ms.",
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
    guest: str,
    serial: str,
    trace: tuple[str, ...],
    log: Path | None,
    capture: Path | None,
) -> int:
    """Run one virtual machine with dynamic memory until it ends."""
    from dynmem.vm.options import machine as options
    from dynmem.vm.options import memory as memory_options

    balloon, dimms = options.parse_devices(devices)
    parsed = options.VmOptions(
        name=options.parse_name(name),
        memory=memory_options.parse_memory(memory),
        objects=memory_options.parse_objects(objects),
        memory_backend=options.parse_machine(machine) if machine else None,
        balloon=balloon,
        dimms=dimms,
        qmp=options.parse_qmp(qmp) if qmp is not None else None,
        guest=options.parse_guest(guest),
        serial=options.parse_serial(serial),
        trace=options.parse_trace(trace),
        log=log,
        capture=capture,
    )
    if parsed.guest.program is None:
        _check_workload(guest, parsed.guest.workload)
    from dynmem.vm.main import run

    return run(parsed)


def _check_workload(text: str, workload: str) -> None:
    """Reject what the embedded guest would reject, before a machine is made."""
    from dynmem.errors import ConfigError
    from dynmem.guest.curve import parse_load

    try:
        parse_load(workload)
    except ConfigError as error:
        raise ConfigError(f"--guest {text!r}: {error}") from None
