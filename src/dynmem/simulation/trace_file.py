"""A load as a file that can be passed on: it has no names and no paths, and its time begins at 0.

    {"dynmem_trace": 1, "budget_bytes": ..., "slush_bytes": ..., "for_ds": ..., ..., "vms": 2}
    {"number": 1, "minimum_bytes": ..., "maximum_bytes": ..., ..., "rows": 3}
    [0, 600, 51200, 50000, 60000]      begins, lasts (tenths of a second); mean, least, most (pages of 4 KiB)

Each line is JSON. The rows of a VM follow its line. What is read is checked line by line, and bounded: in the
length of a line, in VMs, in rows, in every number.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TypeVar

import msgspec

from dynmem.errors import ConfigError, NotPermittedError
from dynmem.json_errors import NOT_JSON
from dynmem.limits import (
    LOAD_LINE_BYTES_MAX,
    MANAGER_FIGURE_BYTES_MAX,
    SIMULATED_ROWS_MAX,
    SIMULATED_S_MAX,
    SIMULATED_VMS_MAX,
    WEIGHT_MAX,
)
from dynmem.manager.config import BUFFER_PERCENT_MAX
from dynmem.policy import Priority
from dynmem.simulation.load import Load, VmLoad
from dynmem.units import PAGE_SIZE

VERSION: Final = 1
_NUMBER_MAX: Final = 1 << 31

T = TypeVar("T")

_Size = Annotated[int, msgspec.Meta(ge=0, lt=MANAGER_FIGURE_BYTES_MAX)]
_Some = Annotated[int, msgspec.Meta(ge=PAGE_SIZE, lt=MANAGER_FIGURE_BYTES_MAX)]
_Pages = Annotated[int, msgspec.Meta(ge=0, lt=MANAGER_FIGURE_BYTES_MAX // PAGE_SIZE)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=SIMULATED_S_MAX * 10)]
_Length = Annotated[int, msgspec.Meta(ge=1, le=SIMULATED_S_MAX * 10)]
_Row = tuple[_Time, _Length, _Pages, _Pages, _Pages]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    dynmem_trace: int
    budget_bytes: _Some
    slush_bytes: _Size
    for_ds: _Length
    row_ds: _Time
    skipped_ds: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    vms: Annotated[int, msgspec.Meta(ge=1, le=SIMULATED_VMS_MAX)]


class VmHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The line of a VM."""

    number: Annotated[int, msgspec.Meta(ge=1, lt=_NUMBER_MAX)]
    minimum_bytes: _Size
    maximum_bytes: _Some
    buffer_percent: Annotated[int, msgspec.Meta(ge=0, le=BUFFER_PERCENT_MAX)]
    weight: Annotated[int, msgspec.Meta(ge=1, le=WEIGHT_MAX)]
    priority: Priority
    reserve_bytes: _Size
    rows: Annotated[int, msgspec.Meta(ge=0, le=SIMULATED_ROWS_MAX)]


def lines(load: Load) -> Iterator[bytes]:
    """Yield the lines of a trace."""
    head = Head(
        VERSION,
        load.budget_bytes,
        load.slush_bytes,
        load.for_ds,
        load.row_ds,
        load.skipped_ds,
        len(load.vms),
    )
    yield msgspec.json.encode(head) + b"\n"
    for vm in load.vms:
        settings = {name: getattr(vm, name) for name in VmHead.__struct_fields__}
        yield msgspec.json.encode(VmHead(**settings)) + b"\n"
        for row in zip(vm.at_ds, vm.for_ds, vm.mean, vm.low, vm.high, strict=True):
            yield msgspec.json.encode(row) + b"\n"


def write(load: Load, path: Path) -> None:
    """Write a trace to a new file; NotPermittedError, or ConfigError if there is one of that name."""
    try:
        with path.open("xb") as file:
            file.writelines(lines(load))
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already: name a new file, or remove it") from error
    except OSError as error:
        raise NotPermittedError(f"{path}: {error.strerror}: name a file that can be written") from error


def read(path: Path) -> Load:
    """Return the load of a trace; ConfigError says what is wrong with the file, and in which line."""
    try:
        with path.open("rb") as file:
            return _Reader(path, file).load()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: name a trace (dynmem history --export)") from error


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._line = 0
        self._rows = msgspec.json.Decoder(_Row)

    def load(self) -> Load:
        head = self._decoded(Head)
        if head.dynmem_trace != VERSION:
            raise self._wrong(f"it is a trace of version {head.dynmem_trace}; this dynmem reads {VERSION}")
        if head.slush_bytes >= head.budget_bytes:
            raise self._wrong("the slush is not below the budget")
        vms: list[VmLoad] = []
        left = SIMULATED_ROWS_MAX
        for _ in range(head.vms):
            settings = self._decoded(VmHead)
            if vms and settings.number <= vms[-1].number:
                raise self._wrong("the numbers of the VMs do not rise")
            left -= settings.rows
            if left < 0:
                raise self._wrong(f"more than {SIMULATED_ROWS_MAX} rows: export less time, or fewer VMs")
            vms.append(self._vm(settings, head.for_ds))
        if self._file.read(1):
            raise self._wrong("there is something behind the last row")
        return Load(head.budget_bytes, head.slush_bytes, head.for_ds, vms, head.row_ds, head.skipped_ds)

    def _vm(self, settings: VmHead, until: int) -> VmLoad:
        fields = msgspec.structs.asdict(settings)
        rows = fields.pop("rows")
        vm = VmLoad(**fields)
        for _ in range(rows):
            try:
                at, length, mean, low, high = self._rows.decode(self._next())
            except NOT_JSON as error:
                raise self._wrong(str(error)) from error
            if at < vm.ends_ds or at + length > until:
                raise self._wrong("the row begins before the last one ended, or ends behind the trace")
            if not low <= mean <= high:
                raise self._wrong("the mean is not between the least and the most")
            vm.add(at, length, mean, low, high)
        return vm

    def _next(self) -> bytes:
        self._line += 1
        line = self._file.readline(LOAD_LINE_BYTES_MAX + 1)
        if not line.endswith(b"\n"):
            raise self._wrong("the file ends here" if len(line) <= LOAD_LINE_BYTES_MAX else "it is too long")
        return line

    def _decoded(self, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self._next(), type=kind)
        except NOT_JSON as error:
            raise self._wrong(str(error)) from error

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self._path}: line {self._line}: {what}: export the trace again")
