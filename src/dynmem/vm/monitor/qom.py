"""A tree of objects with properties, and the paths that lead through it (QEMU qom/object.c).

The tree is built for each request from what the machine has; it keeps nothing itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from dynmem.qmp.errors import DEVICE_NOT_FOUND, GENERIC_ERROR, QmpCommandError
from dynmem.qmp.types import wrong, wrong_type

Read = Callable[[], object]
Write = Callable[[object], object]  # takes a value as a client sent it; awaited if awaitable


class Property(NamedTuple):
    """One property: `type` is what qom-list says of it; without `write` it cannot be set.

    `target` leads on to the object that the property is a link to, or that is a child: its path is read.
    """

    name: str
    type: str
    read: Read
    write: Write | None = None
    target: Callable[[], "Node | None"] | None = None

    @property
    def is_child(self) -> bool:
        """Whether the object that it leads to has its place here."""
        return self.type.startswith("child<")


class Node:
    """One object, at `path`. `kinds` are its type and what that is derived from."""

    def __init__(
        self, path: str, *kinds: str, properties: Callable[["Node"], Iterable[Property]] = lambda _: ()
    ) -> None:
        self.path: Final = path
        self.kinds: Final = kinds
        self._make = properties
        self._made: dict[str, Property] | None = None

    @property
    def properties(self) -> dict[str, Property]:
        """All properties by name, ``type`` first."""
        if self._made is None:
            self._made = {"type": Property("type", "string", lambda: self.kinds[0])}
            self._made.update((each.name, each) for each in self._make(self))
        return self._made

    def get(self, name: str) -> Property:
        """Return one property. Raises QmpCommandError."""
        if name not in self.properties:
            raise wrong(f"Property '{self.kinds[0]}.{name}' not found")
        return self.properties[name]

    def set(self, name: str, value: object) -> object:
        """Set a property; await the result if it is awaitable. Raises QmpCommandError."""
        found = self.get(name)
        if found.write is None:
            raise wrong(f"Property '{self.kinds[0]}.{name}' is not writable")
        return found.write(value)

    @property
    def children(self) -> list["Node"]:
        """The objects that are properties of this one."""
        nodes = (each.target() for each in self.properties.values() if each.is_child and each.target)
        return [node for node in nodes if node is not None]


def child(name: str, node: Node) -> Property:
    """Return the property that makes `node` a child called `name`."""
    return Property(name, f"child<{node.kinds[0]}>", lambda: node.path, target=lambda: node)


def link(name: str, kind: str, target: Callable[[], Node | None], write: Write | None = None) -> Property:
    """Return a property that leads to an object elsewhere, or to none."""

    def read() -> object:
        node = target()
        return "" if node is None else node.path

    return Property(name, f"link<{kind}>", read, write, target)


def container(path: str, nodes: Mapping[str, Node]) -> Node:
    """Return an object that only holds others, by name."""
    return Node(path, "container", properties=lambda _: [child(name, node) for name, node in nodes.items()])


class AmbiguousPathError(Exception):
    """More than one object has a path that ends so."""


def find(root: Node, path: str, kind: str | None = None) -> Node | None:
    """Return the object (of type `kind`) at a path; one without a leading slash may be the end of a path.

    Raises AmbiguousPathError if several paths end so.
    """
    parts = [part for part in path.split("/") if part]
    if path.startswith("/"):
        return walk(root, parts, kind)
    return _find_partial(root, parts, kind)


def walk(node: Node, parts: Sequence[str], kind: str | None = None) -> Node | None:
    """Return the object (of type `kind`) that children and links called `parts` lead to."""
    for part in parts:
        found = node.properties.get(part)
        target = found.target() if found is not None and found.target is not None else None
        if target is None:
            return None
        node = target
    return node if kind is None or kind in node.kinds else None


def _find_partial(node: Node, parts: Sequence[str], kind: str | None) -> Node | None:
    found = walk(node, parts, kind)
    for each in node.children:
        below = _find_partial(each, parts, kind)
        if below is not None and found is not None:
            raise AmbiguousPathError
        found = found or below
    return found


def not_found(path: str) -> QmpCommandError:
    """Return the error for a path that leads nowhere, to be raised."""
    return QmpCommandError(DEVICE_NOT_FOUND, f"Device '{path}' not found")


def get(root: Node, path: str) -> Node:
    """Return the object at a path. Raises QmpCommandError, also for an ambiguous one."""
    try:
        node = find(root, path)
    except AmbiguousPathError:
        node = None
    if node is None:
        raise not_found(path)
    return node


def listing(root: Node, path: str) -> list[dict[str, str]]:
    """Return the entries of qom-list for the object at a path. Raises QmpCommandError."""
    try:
        node = find(root, path)
    except AmbiguousPathError:
        raise QmpCommandError(GENERIC_ERROR, f"Path '{path}' is ambiguous") from None
    if node is None:
        raise not_found(path)
    return [{"name": each.name, "type": each.type} for each in node.properties.values()]


def linked(root: Node, name: str, value: object, kind: str) -> Node | None:
    """Return the object of type `kind` for the link `name`; "" is none. Raises QmpCommandError."""
    if not isinstance(value, str):
        raise wrong_type(name, "string")
    if not value:
        return None
    try:
        node = find(root, value, kind)
    except AmbiguousPathError:
        raise wrong(f"Path '{value}' does not uniquely identify an object") from None
    if node is not None:
        return node
    try:
        is_there = find(root, value) is not None
    except AmbiguousPathError:
        is_there = True
    raise wrong_type(name, kind) if is_there else not_found(value)
