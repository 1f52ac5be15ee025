#!/usr/bin/python
"""An Ansible module: the files of dynmem's configuration, checked together before any is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: dynmem_config
short_description: Write the configuration of dynmem run, and its drop-ins
description:
  - Writes the manager's file and drop-ins beside it. Drop-ins that it wrote earlier and that are no longer
    wanted are removed.
  - All files are first checked together, with those that others wrote, by C(dynmem config check). If that
    finds a mistake, nothing is changed.
options:
  path:
    description: The manager's file. Drop-ins are in the folder of the same name that ends in C(.d).
    type: path
    default: /etc/dynmem/config.toml
  main:
    description: >-
      What the file says, a mapping or the text of a TOML file. If empty, a file that is there stays as
      it is; where there is none, one without settings is written, since the unit of the service asks for it.
    type: raw
    default: {}
  drop_ins:
    description: What each drop-in says, likewise, by its name without C(.toml). They are read in that order.
    type: dict
    default: {}
  command:
    description: The C(dynmem) that checks the files.
    type: str
    default: dynmem
  incomplete:
    description: With C(--check), do not check the files, since one that comes before is not there yet.
    type: bool
    default: false
  state:
    description: With V(absent), all files that this module wrote are removed, and nothing is checked.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Configure dynmem
  dynmem_config:
    main:
      host: {budget: 48GiB}
    drop_ins:
      50-databases:
        vm:
          - {name: db, priority: high}
"""

RETURN = r"""
files:
  description: The files that were written or removed.
  type: list
  elements: str
summary:
  description: What C(dynmem config check) prints about the configuration.
  type: str
"""

MARK = "# Written by Ansible: what is changed here by hand is lost."
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class WrongError(Exception):
    """What was asked for cannot be written."""


def as_toml(said: object) -> str:
    """Return the text of a TOML file; a text is taken as it is."""
    if isinstance(said, str):
        return said if said.endswith("\n") else said + "\n"
    if not isinstance(said, dict):
        raise WrongError(f"a mapping or a text is required, and not {type(said).__name__}")
    plain, tables = [], []
    for key, value in said.items():
        if isinstance(value, dict):
            tables.append("\n".join([f"[{_key(key)}]", *_pairs(value)]))
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            tables += ["\n".join([f"[[{_key(key)}]]", *_pairs(each)]) for each in value]
        else:
            plain += _pairs({key: value})
    return "\n\n".join(["\n".join(plain)] * bool(plain) + tables) + "\n"


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _key(key: object) -> str:
    text = str(key)
    return text if BARE_KEY.fullmatch(text) else _value(text)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # JSON escapes as TOML does, but for this character.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(_pairs(value))} }}"
    raise WrongError(f"{value!r} is not a text, a number, true or false, nor a list of these")


def is_ours(text: str | None) -> bool:
    """Return whether this module wrote a file."""
    return text is not None and text.startswith(MARK)


def read(path: Path) -> str | None:
    """Return the text of a file; None: there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


class Files:
    """The files of one configuration: what they say, and what they are to say; None: there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.drop_ins = path.with_suffix(".d")
        found = sorted(self.drop_ins.glob("*.toml")) if self.drop_ins.is_dir() else []
        self.before = {each: read(each) for each in (path, *found)}
        self.after = dict(self.before)

    def want(self, main: object, drop_ins: dict[str, object]) -> None:
        """Set what they are to say; drop-ins of ours that are not named go."""
        if main:
            self.after[self.path] = f"{MARK}\n{as_toml(main)}"
        elif self.before[self.path] is None:
            self.after[self.path] = f"{MARK}\n"
        self._remove_ours(self.drop_ins)
        for name, said in drop_ins.items():
            if not NAME.fullmatch(name):
                raise WrongError(f"drop-in {name!r}: letters, digits, dot, dash and underscore make a name")
            path = self.drop_ins / f"{name}.toml"
            if self.before.get(path) is not None and not is_ours(self.before[path]):
                raise WrongError(f"{path}: somebody else wrote it: remove it, or use another name")
            try:
                self.after[path] = f"{MARK}\n{as_toml(said)}"
            except WrongError as error:
                raise WrongError(f"drop-in {name!r}: {error}") from error

    def want_none(self) -> None:
        """Have all files of ours go."""
        self._remove_ours(self.path.parent)

    def _remove_ours(self, folder: Path) -> None:
        for path, text in self.before.items():
            if is_ours(text) and folder in path.parents:
                self.after[path] = None

    @property
    def changed(self) -> list[Path]:
        """Those that say something else afterwards."""
        return [path for path, text in self.after.items() if text != self.before.get(path)]

    def diff(self) -> list[dict[str, str]]:
        """Return what Ansible shows with --diff."""
        return [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": self.before.get(path) or "",
                "after": self.after[path] or "",
            }
            for path in self.changed
        ]

    def stage(self, folder: Path) -> Path:
        """Write all of them as they are to be into another folder, and return the manager's file there."""
        for path, text in self.after.items():
            if text is not None:
                _write(folder / path.relative_to(self.path.parent), text)
        return folder / self.path.name

    def replace(self) -> None:
        """Write and remove what has changed; if that fails half-way, all is as it was."""
        done: list[Path] = []
        try:
            for path in self.changed:
                done.append(path)
                _put(path, self.after[path])
        except OSError:
            for path in done:
                _put(path, self.before.get(path))
            raise

    def remove_folders(self) -> None:
        """Remove the folders that are empty now."""
        for folder in (self.drop_ins, self.path.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _put(path: Path, text: str | None) -> None:
    if text is not None:
        _write(path, text)
    elif path.exists():
        path.unlink()


def _write(path: Path, text: str) -> None:
    """Write a file all at once: who reads meanwhile reads the old one or the new one."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def checked(module: AnsibleModule, files: Files) -> str:
    """Return what ``dynmem config check`` says of the files as they are to be, or fail with what is wrong."""
    folder = Path(tempfile.mkdtemp(dir=module.tmpdir))
    try:
        command = [module.params["command"], "config", "check", "--config", str(files.stage(folder))]
        code, out, err = module.run_command(command, handle_exceptions=False)
    except OSError as error:
        if module.check_mode:
            return f"not checked: dynmem is not installed yet ({error.strerror})"
        module.fail_json(
            msg=f"{module.params['command']}: cannot be run ({error.strerror}): install dynmem first"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out, err = (text.replace(str(folder), str(files.path.parent)).strip() for text in (out, err))
    if code:
        module.fail_json(
            msg=f"nothing was changed, since the configuration would be wrong: {err or out}", rc=code
        )
    return str(out)


def main() -> None:
    """Do what the task says."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/dynmem/config.toml"},
            "main": {"type": "raw", "default": {}},
            "drop_ins": {"type": "dict", "default": {}},
            "command": {"type": "str", "default": "dynmem"},
            "incomplete": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    files, summary = Files(Path(module.params["path"])), ""
    try:
        if module.params["state"] == "absent":
            files.want_none()
        else:
            files.want(module.params["main"], module.params["drop_ins"])
            if not (module.check_mode and module.params["incomplete"]):
                summary = checked(module, files)
        result = {
            "changed": bool(files.changed),
            "files": sorted(map(str, files.changed)),
            "diff": files.diff(),
            "summary": summary,
        }
        if not module.check_mode:
            files.replace()
            if module.params["state"] == "absent":
                files.remove_folders()
    except WrongError as error:
        module.fail_json(msg=f"nothing was changed: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
