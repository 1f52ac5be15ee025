"""Paths through a tree of objects, and their properties."""

from collections.abc import Iterable

import pytest

from dynmem.qmp.errors import QmpCommandError
from dynmem.vm.monitor.qom import (
    AmbiguousPathError,
    Node,
    Property,
    child,
    container,
    find,
    get,
    link,
    linked,
    listing,
)


def tree() -> Node:
    """Memory called a and b, a device called a that leads to b, one called c that leads nowhere."""
    a = Node("/objects/a", "memory-ram", "memory")
    b = Node("/objects/b", "memory-file", "memory")

    def properties(target: Node | None) -> Iterable[Property]:
        return [Property("size", "int", lambda: 5), link("memdev", "memory", lambda: target)]

    devices = {
        "a": Node("/machine/peripheral/a", "dimm", properties=lambda _: properties(b)),
        "c": Node("/machine/peripheral/c", "dimm", properties=lambda _: properties(None)),
    }
    peripheral = container("/machine/peripheral", devices)
    machine = Node("/machine", "machine", properties=lambda _: [child("peripheral", peripheral)])
    objects = container("/objects", {"a": a, "b": b})
    return container("/", {"machine": machine, "objects": objects})


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/objects/a", "/objects/a"),
        ("//objects//a/", "/objects/a"),
        ("b", "/objects/b"),
        ("objects/a", "/objects/a"),
        ("peripheral/a", "/machine/peripheral/a"),
        ("/machine/peripheral/a/memdev", "/objects/b"),
        ("c", "/machine/peripheral/c"),
        ("/machine/peripheral/c/memdev", None),
        ("/machine/peripheral/a/size", None),
        ("/objects/c", None),
        ("/a", None),
        ("nix", None),
    ],
)
def test_a_path_leads_through_children_and_links(path: str, leads_to: str | None) -> None:
    found = find(tree(), path)
    assert (found and found.path) == leads_to


@pytest.mark.parametrize("path", ["", "a"])
def test_an_end_that_several_paths_have_is_ambiguous(path: str) -> None:
    with pytest.raises(AmbiguousPathError):
        find(tree(), path)


def test_of_several_ends_only_those_of_the_right_type_count() -> None:
    found = find(tree(), "a", "memory")
    assert found is not None
    assert found.path == "/objects/a"


def test_a_link_is_read_as_a_path() -> None:
    root = tree()
    assert get(root, "peripheral/a").get("memdev").read() == "/objects/b"
    assert get(root, "c").get("memdev").read() == ""
    assert get(root, "/objects").get("a").read() == "/objects/a"


def test_a_list_names_every_property_with_its_type() -> None:
    assert listing(tree(), "/machine/peripheral") == [
        {"name": "type", "type": "string"},
        {"name": "a", "type": "child<dimm>"},
        {"name": "c", "type": "child<dimm>"},
    ]
    assert listing(tree(), "c") == [
        {"name": "type", "type": "string"},
        {"name": "size", "type": "int"},
        {"name": "memdev", "type": "link<memory>"},
    ]


def said(error: pytest.ExceptionInfo[QmpCommandError]) -> tuple[str, str]:
    return error.value.error_class, error.value.desc


def test_what_is_not_there_is_named_in_qemus_words() -> None:
    root = tree()
    with pytest.raises(QmpCommandError) as error:
        get(root, "nix")
    assert said(error) == ("DeviceNotFound", "Device 'nix' not found")
    with pytest.raises(QmpCommandError) as error:
        get(root, "a")
    assert said(error) == ("DeviceNotFound", "Device 'a' not found")
    with pytest.raises(QmpCommandError) as error:
        listing(root, "")
    assert said(error) == ("GenericError", "Path '' is ambiguous")
    with pytest.raises(QmpCommandError) as error:
        get(root, "c").get("nix")
    assert said(error) == ("GenericError", "Property 'dimm.nix' not found")
    with pytest.raises(QmpCommandError) as error:
        get(root, "c").set("size", 1)
    assert said(error) == ("GenericError", "Property 'dimm.size' is not writable")


@pytest.mark.parametrize(
    ("value", "error_class", "desc"),
    [
        (5, "GenericError", "Invalid parameter type for 'memdev', expected: string"),
        ("c", "GenericError", "Invalid parameter type for 'memdev', expected: memory"),
        ("nix", "DeviceNotFound", "Device 'nix' not found"),
        ("/objects/nix", "DeviceNotFound", "Device '/objects/nix' not found"),
    ],
)
def test_a_link_to_something_else_is_refused(value: object, error_class: str, desc: str) -> None:
    with pytest.raises(QmpCommandError) as error:
        linked(tree(), "memdev", value, "memory")
    assert said(error) == (error_class, desc)


def test_a_link_takes_any_path_of_its_type_and_the_empty_one_for_none() -> None:
    root = tree()
    for path in ("a", "/objects/a", "objects/a"):
        found = linked(root, "memdev", path, "memory")
        assert found is not None
        assert found.path == "/objects/a"
    assert linked(root, "memdev", "", "memory") is None
