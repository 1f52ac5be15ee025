"""What is read of a domain's XML, and what is not believed."""

import pytest
from tests.rigs.libvirts import UUID, xml

from dynmem.domains.definition import definition_of
from dynmem.errors import RemoteProtocolError
from dynmem.units import GIB, MIB

BALLOON = (
    "<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='5'/>"
    "<address type='pci'/></memballoon>"
)
PLUGGED = "<memory model='{}'><target><size unit='KiB'>131072</size><node>0</node></target></memory>"
NUMA = "<cpu><numa><cell id='0' memory='{0}' unit='KiB'/><cell id='1' memory='{0}' unit='KiB'/></numa></cpu>"


def test_memory_and_balloon_of_a_domain_are_read() -> None:
    found = definition_of(xml(balloon=BALLOON))
    assert (found.name, found.uuid, found.policy) == ("web", UUID, None)
    assert (found.boot_bytes, found.blocks) == (256 * MIB, (256 * MIB,))
    assert (found.has_balloon, found.deflates_on_oom, found.reports_free_pages) == (True, True, True)
    assert found.period_s == 5
    assert definition_of(xml(uuid=UUID.upper())).uuid == UUID


def test_a_period_that_no_domain_has_is_none() -> None:
    for period in ("99999999999", "-5", "soon", "9" * 5000):
        assert definition_of(xml(balloon=BALLOON.replace("'5'", f"'{period}'"))).period_s == 0


@pytest.mark.parametrize("balloon", ["<memballoon model='none'/>", "", "<memballoon/>"])
def test_a_domain_without_a_balloon_is_known(balloon: str) -> None:
    assert not definition_of(xml(balloon=balloon)).has_balloon


def test_dimms_are_part_of_its_size_and_virtio_mem_is_not() -> None:
    with_dimm = definition_of(xml(memory=str(GIB // 1024), more=PLUGGED.format("dimm")))
    assert (with_dimm.boot_bytes, with_dimm.blocks) == (GIB, (GIB - 128 * MIB, 128 * MIB))
    with_mem = definition_of(xml(memory=str(GIB // 1024), more=PLUGGED.format("virtio-mem")))
    assert (with_mem.boot_bytes, with_mem.blocks) == (GIB - 128 * MIB, (GIB - 128 * MIB,))


def test_the_pieces_of_a_domain_with_numa_cells_are_its_cells() -> None:
    text = xml().replace("<devices>", NUMA.format(128 * 1024) + "<devices>")
    assert definition_of(text).blocks == (128 * MIB, 128 * MIB)


def test_a_policy_is_read_wherever_its_prefix_comes_from() -> None:
    found = definition_of(xml(policy='minimum="64MiB" weight="7"'))
    assert (found.policy, found.policies) == ({"minimum": "64MiB", "weight": "7"}, 1)
    plain = xml().replace(
        "<memory ", "<metadata><policy xmlns='urn:dynmem:policy:1' a='b'/></metadata><memory ", 1
    )
    assert definition_of(plain).policy == {"a": "b"}
    others = xml().replace("<memory ", "<metadata><policy xmlns='urn:other' a='b'/></metadata><memory ", 1)
    assert definition_of(others).policy is None


BOMB = "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]>" + xml().replace(">web<", ">&b;<")
WRONG = {
    "no XML": "garbage",
    "half of it": xml()[:200],
    "entities": BOMB,
    "nested deeply": xml(more="<a>" * 500 + "</a>" * 500),
    "no memory": xml(memory="0"),
    "memory that is no number": xml(memory="a lot"),
    "more memory than any VM": xml(memory=str(1 << 62)),
    "more memory than any VM, in KiB": xml(memory=str(1 << 45)),
    "more digits than any number": xml(memory="9" * 5000),
    "more plugged than there is": xml(more=PLUGGED.format("virtio-mem") * 3),
    "no name": xml(name=""),
    "another document": "<pool/>",
    "too long": xml(more="<a/>" * (1 << 21)),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_is_no_definition_of_a_domain_is_rejected_by_name(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="the definition of a domain"):
        definition_of(text)
