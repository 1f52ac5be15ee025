"""A configuration in several files: `config.toml`, and those in `config.d` beside it, in order of names.

A later file adds VMs, and replaces single keys: those of [host] and [manager], and those of a VM that an
earlier file has under the same name. So a package, a tool and an operator each have a file of their own. Each
file is checked for itself, too, and a mistake is reported with the file that it is in.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import MANAGER_DROP_INS_MAX
from dynmem.manager.config_file import File, parsed, typed, vm_place

SUFFIX: Final = ".toml"


class Origins:
    """Which file each key comes from.

    Attributes:
        path: The first file: that of every key that no file has.
        files: All files, in the order in which they were read.
        by_key: The file of each key, by what a sentence calls the key.
    """

    def __init__(self, files: Sequence[Path], by_key: Mapping[str, Path]) -> None:
        self.path: Path = files[0]
        self.files: tuple[Path, ...] = tuple(files)
        self.by_key: dict[str, Path] = dict(by_key)

    def of(self, key: str) -> Path:
        """Return the file of a key, or of the table that lacks it."""
        if key in self.by_key:
            return self.by_key[key]
        table = key.rpartition(".")[0]
        return self.by_key.get(table, self.path)


def folder_of(path: Path) -> Path:
    """Return the folder of a file's drop-ins, which need not exist."""
    return path.parent / f"{path.stem}.d"


def files_of(path: Path) -> list[Path]:
    """Return a file and its drop-ins. ConfigError if these cannot be listed."""
    folder = folder_of(path)
    try:
        names = sorted(
            each.name for each in folder.iterdir() if each.suffix == SUFFIX and each.name[0] != "."
        )
    except (FileNotFoundError, NotADirectoryError):
        return [path]
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read ({error.strerror}): let this user read it") from error
    if len(names) > MANAGER_DROP_INS_MAX:
        raise ConfigError(
            f"{folder}: {len(names)} files; at most {MANAGER_DROP_INS_MAX} are read: put several VMs into one"
        )
    return [path, *(folder / name for name in names)]


def read(path: Path) -> tuple[File, Origins]:
    """Read all files; ConfigError says in one sentence what is wrong first."""
    files = files_of(path)
    merged: dict[str, object] = {}
    by_key: dict[str, Path] = {}
    for each in files:
        by_key.update(dict.fromkeys(_merge(merged, parsed(each)), each))
    origins = Origins(files, by_key)
    return typed(merged, origins.of), origins


def _merge(merged: dict[str, object], raw: Mapping[str, object]) -> Iterator[str]:
    """Take in the keys of a file, and yield what a sentence calls each of them, the tables included.

    What is no table, or no list of tables, stands for itself: that it is wrong is found with the types.
    """
    for name, value in raw.items():
        before = merged.get(name)
        if isinstance(value, dict) and isinstance(before, dict | None):
            if before is None:
                yield name
            merged[name] = {**(before or {}), **value}
            yield from (f"{name}.{key}" for key in value)
        elif isinstance(value, list) and isinstance(before, list | None):
            vms: list[object] = [*(before or [])]
            merged[name] = vms
            yield from _merge_vms(vms, value)
        else:
            merged[name] = value
            yield name


def _merge_vms(vms: list[object], more: Sequence[object]) -> Iterator[str]:
    """Take in the VMs of a file: one that an earlier file has gets further keys."""
    earlier = {_name(vm): index for index, vm in reversed(list(enumerate(vms))) if _name(vm)}
    for vm in more:
        index = earlier.get(_name(vm), len(vms))
        is_new = index == len(vms)
        if is_new:
            vms.append(vm)
        before = vms[index]
        if isinstance(before, dict) and isinstance(vm, dict):
            vms[index] = {**before, **vm}
        for place in (vm_place(_name(vm), index), vm_place("", index)):
            if is_new:
                yield place
            yield from (f"{place}.{key}" for key in vm) if isinstance(vm, dict) else ()


def _name(vm: object) -> str:
    name = vm.get("name") if isinstance(vm, dict) else None
    return name if isinstance(name, str) else ""
