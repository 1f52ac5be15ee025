"""What the XML of a domain says of its memory, its balloon and its policy.

The XML is libvirt's own writing, but what is in `<metadata>` is whatever somebody wrote there. Expat reads it
without resolving anything, and a document that declares entities is rejected.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple
from xml.parsers import expat

from dynmem.errors import RemoteProtocolError
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX
from dynmem.units import GIB, KIB, MIB

#: The namespace of the policy in `<metadata>`.
NAMESPACE: Final = "urn:dynmem:policy:1"
XML_MAX: Final = 4 * MIB
_DEPTH_MAX: Final = 200
_SECONDS_MAX: Final = 1 << 31
# Where a size has no unit it is in KiB (formatdomain).
_UNITS: Final = {"b": 1, "bytes": 1, "KiB": KIB, "k": KIB, "MiB": MIB, "GiB": GIB}
_MEMORY: Final = ("domain", "memory")
_CELL: Final = ("domain", "cpu", "numa", "cell")
_DEVICES: Final = ("domain", "devices")
_BALLOON: Final = (*_DEVICES, "memballoon")
_PLUGGED: Final = (*_DEVICES, "memory")
_PLUGGED_SIZES: Final = {(*_PLUGGED, "target", key): key for key in ("size", "requested", "current", "block")}
_POLICY: Final = ("domain", "metadata", f"{NAMESPACE} policy")
_TEXTS: Final = (("domain", "uuid"), ("domain", "name"), _MEMORY, *_PLUGGED_SIZES)


class Plugged(NamedTuple):
    """One memory device. Bytes; what libvirt does not say of it is 0.

    Attributes:
        model: What it is: "dimm", "virtio-mem" and others.
        size: Its size, and for virtio-mem the most that it can plug.
        requested: What virtio-mem is asked to have plugged.
        current: What it has plugged.
        block: The unit of both.
    """

    model: str
    size: int = 0
    requested: int = 0
    current: int = 0
    block: int = 0


class Definition(NamedTuple):
    """What is known of a domain by its XML. Bytes.

    Attributes:
        uuid: Its UUID, in small letters.
        name: Its name.
        boot_bytes: Its size with an empty balloon: its memory and its DIMMs, as QEMU counts them in `actual`.
        blocks: The sizes of the pieces that its RAM is made of.
        has_balloon: Whether it has a virtio-balloon.
        deflates_on_oom: Whether its guest may take pages back before it kills a process.
        reports_free_pages: Whether its guest may hand back free pages.
        period_s: How often its guest is asked for statistics; 0: never.
        policy: The attributes of its policy; None: it has none.
        policies: How many policies it has.
        plugged: Its memory devices.
    """

    uuid: str
    name: str
    boot_bytes: int
    blocks: tuple[int, ...]
    has_balloon: bool
    deflates_on_oom: bool
    reports_free_pages: bool
    period_s: int
    policy: Mapping[str, str] | None
    policies: int
    plugged: tuple[Plugged, ...] = ()


def definition_of(xml: str) -> Definition:
    """Return what a domain's XML says. RemoteProtocolError if it is not that of a domain."""
    if len(xml) > XML_MAX:
        raise RemoteProtocolError(f"the definition of a domain has {len(xml)} characters: {XML_MAX} are read")
    reader = _Reader()
    try:
        reader.read(xml)
    except (expat.ExpatError, UnicodeError) as error:
        raise RemoteProtocolError(f"the definition of a domain is not XML: {error}") from error
    return reader.definition()


class _Reader:
    """Takes the elements as they come."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._texts: dict[tuple[str, ...], str] = {}
        self._unit = "KiB"
        self._total = 0
        self._plugged: list[Plugged] = []
        self._cells: list[int] = []
        self._balloon: Mapping[str, str] = {}
        self._period = "0"
        self._policies: list[dict[str, str]] = []

    def read(self, xml: str) -> None:
        """Read a document."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = _refuse
        parser.Parse(xml, True)

    def definition(self) -> Definition:
        """Return what was read."""
        uuid, name = (self._texts.get(("domain", key), "").strip() for key in ("uuid", "name"))
        dimms = tuple(each.size for each in self._plugged if each.model == "dimm")
        base = self._total - sum(each.size for each in self._plugged)
        if not uuid or not name or base <= 0:
            raise RemoteProtocolError("the definition of a domain lacks its name, its UUID or its memory")
        model = self._balloon.get("model", "none")
        return Definition(
            uuid=uuid.lower(),
            name=name,
            boot_bytes=base + sum(dimms),
            blocks=(*(self._cells or (base,)), *dimms),
            has_balloon=model.startswith("virtio"),
            deflates_on_oom=self._balloon.get("autodeflate") == "on",
            reports_free_pages=self._balloon.get("freePageReporting") == "on",
            period_s=_number(self._period, _SECONDS_MAX),
            policy=self._policies[0] if self._policies else None,
            policies=len(self._policies),
            plugged=tuple(self._plugged),
        )

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if len(self._path) > _DEPTH_MAX:
            raise RemoteProtocolError(f"the definition of a domain is nested more than {_DEPTH_MAX} deep")
        path = tuple(self._path)
        if path in _TEXTS:
            self._texts[path] = ""
            self._unit = attributes.get("unit", "KiB")
        elif path == _PLUGGED:
            self._plugged.append(Plugged(attributes.get("model", "")))
        elif path == _CELL:
            self._cells.append(_size(attributes.get("memory", ""), attributes.get("unit", "KiB")))
        elif path == _BALLOON:
            self._balloon = attributes
        elif path == (*_BALLOON, "stats"):
            self._period = attributes.get("period", "0")
        elif path == _POLICY:
            self._policies.append(attributes)

    def _end(self, _: str) -> None:
        path = tuple(self._path)
        if path == _MEMORY:
            self._total = _size(self._texts[path], self._unit)
        elif path in _PLUGGED_SIZES:
            said = self._plugged[-1]._asdict() | {_PLUGGED_SIZES[path]: _size(self._texts[path], self._unit)}
            self._plugged[-1] = Plugged(**said)
        self._path.pop()

    def _text(self, text: str) -> None:
        path = tuple(self._path)
        if path in self._texts:
            self._texts[path] += text


def _refuse(*_: object) -> None:
    raise RemoteProtocolError("the definition of a domain declares entities, which libvirt never writes")


def _size(text: str, unit: str) -> int:
    size = _number(text.strip(), MANAGER_FIGURE_BYTES_MAX) * _UNITS.get(unit, 0)
    return size if size <= MANAGER_FIGURE_BYTES_MAX else 0


def _number(text: str, most: int) -> int:
    """Return a number as libvirt writes it; 0 if it is none, or larger than any can be."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    return number if number <= most else 0
