"""The policy in the `<metadata>` of a domain, held to the same rules as a VM's table in the file.

    <metadata>
      <dynmem:policy xmlns:dynmem="urn:dynmem:policy:1" minimum="1GiB" maximum="8GiB"
                     buffer="20" weight="5000" priority="normal" on_shortage="wait" mode="enforce"/>
    </metadata>

`minimum` is required, and `maximum` is the domain's memory unless it says otherwise. `mode` can only
restrict: with "observe", a manager that enforces leaves the domain as it is. Whoever may define a domain
writes this, so no key of the file that runs a program or stops a guest is known here.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar, get_args

from dynmem.domains.definition import NAMESPACE, Definition
from dynmem.errors import ConfigError, quoted
from dynmem.manager.config import checked_vm
from dynmem.manager.config_file import VmTable, is_name
from dynmem.manager.step.facts import VmConfig
from dynmem.policy import MemorySettings, OnShortage, Priority
from dynmem.units import KIB

W = TypeVar("W", bound=str)

_KEYS: Final = ("minimum", "maximum", "buffer", "weight", "priority", "on_shortage", "mode")
_MODES: Final = ("observe", "enforce")
_PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
_ON_SHORTAGE: Final[tuple[OnShortage, ...]] = get_args(OnShortage)
_DEFAULTS: Final = MemorySettings()
_DIGITS_MAX: Final = 9


def _number(said: Mapping[str, str], key: str, otherwise: int) -> int:
    text = said.get(key)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX):
        raise ConfigError(f"{key}: {quoted(text)} is not a whole number")
    return int(text)


def _one_of(said: Mapping[str, str], key: str, words: Sequence[W], otherwise: W) -> W:
    for word in words:
        if said.get(key, otherwise) == word:
            return word
    raise ConfigError(f"{key}: {quoted(said[key])} is not one of {', '.join(words)}")


def is_observed(domain: Definition) -> bool:
    """Return whether a domain's policy wants it to be left as it is, whatever the manager does."""
    return domain.policy is not None and domain.policy.get("mode") == _MODES[0]


def policy_of(domain: Definition, room_bytes: int) -> VmConfig:
    """Return the policy of a domain that has one. ConfigError says what is wrong with it.

    *room_bytes* is what can be granted at all.
    """
    assert domain.policy is not None

    def fail(key: str, sentence: str) -> ConfigError:
        return ConfigError(f"{key.removeprefix('its.')}: {sentence}")

    said = domain.policy
    if not is_name(domain.name):
        raise ConfigError(
            f"{quoted(domain.name)} is no name for dynmem: write a [[vm]] for it, with libvirt ="
            f' "{domain.uuid}" and a name of letters, digits, ".", "-" and "_"'
        )
    if domain.policies > 1:
        raise ConfigError(f"it has {domain.policies} policies of {NAMESPACE}: leave one")
    for key in said:
        if key not in _KEYS:
            raise fail(quoted(key), f"unknown: known here are {', '.join(_KEYS)}")
    _one_of(said, "mode", _MODES, "enforce")
    if "minimum" not in said:
        raise fail("minimum", 'missing: add minimum="1GiB", for example')
    table = VmTable(
        name=domain.name,
        minimum=said["minimum"],
        maximum=said.get("maximum", f"{domain.boot_bytes // KIB}KiB"),
        buffer=_number(said, "buffer", _DEFAULTS.buffer_percent),
        weight=_number(said, "weight", _DEFAULTS.weight),
        priority=_one_of(said, "priority", _PRIORITIES, _DEFAULTS.priority),
        on_shortage=_one_of(said, "on_shortage", _ON_SHORTAGE, "wait"),
        libvirt=domain.uuid,
    )
    return checked_vm(fail, "its", table, room_bytes)
