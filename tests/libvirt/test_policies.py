"""The policy in a domain's metadata: the rules of the file, and nothing that runs a program."""

import pytest
from tests.rigs.libvirts import UUID, xml

from dynmem.domains.definition import definition_of
from dynmem.errors import ConfigError
from dynmem.manager.config_file import VmTable
from dynmem.manager.domains.policies import policy_of
from dynmem.manager.step.facts import VmConfig
from dynmem.units import GIB, MIB


def policy(attributes: str, name: str = "web") -> VmConfig:
    return policy_of(definition_of(xml(name, policy=attributes)), GIB)


def test_a_minimum_is_enough_and_the_maximum_is_the_domains_memory() -> None:
    found = policy('minimum="64MiB"')
    assert (found.name, found.minimum_bytes, found.maximum_bytes) == ("web", 64 * MIB, 256 * MIB)
    assert found == VmConfig(name="web", minimum_bytes=64 * MIB, maximum_bytes=256 * MIB)


def test_every_key_of_a_policy_means_what_it_means_in_the_file() -> None:
    found = policy(
        'minimum="64MiB" maximum="128MiB" buffer="30" weight="9" priority="high" on_shortage="squeeze"'
    )
    assert (found.maximum_bytes, found.buffer_percent, found.weight) == (128 * MIB, 30, 9)
    assert (found.priority, found.on_shortage) == ("high", "squeeze")


def test_no_policy_runs_a_program_or_stops_a_guest() -> None:
    for key in set(VmTable.__struct_fields__) - {
        "minimum",
        "maximum",
        "buffer",
        "weight",
        "priority",
        "on_shortage",
    }:
        with pytest.raises(ConfigError, match=f"'{key}': unknown"):
            policy(f'minimum="64MiB" {key}="/bin/true"')


WRONG = {
    "no minimum": ('weight="9"', "minimum: missing"),
    "a minimum without a unit": ('minimum="64"', "did you mean 64GiB"),
    "a tiny minimum": ('minimum="1MiB"', "minimum: 1 MiB is below 16 MiB"),
    "a huge minimum": ('minimum="2GiB" maximum="4GiB"', "minimum: 2 GiB is above budget minus slush"),
    "nonsense": ('minimum="a lot"', "minimum: "),
    "minimum above maximum": ('minimum="512MiB"', "minimum: 512 MiB is above its maximum of 256 MiB"),
    "a weight of nothing": ('minimum="64MiB" weight="0"', "weight: 0 is outside 1 to 10000"),
    "a weight of many digits": (f'minimum="64MiB" weight="{"9" * 5000}"', "weight: '9999"),
    "a weight in other digits": ('minimum="64MiB" weight="٣"', "weight: '٣' is not a whole number"),
    "a negative buffer": ('minimum="64MiB" buffer="-1"', "buffer: '-1' is not a whole number"),
    "another mode": ('minimum="64MiB" mode="advise"', "mode: 'advise' is not one of observe, enforce"),
    "another priority": ('minimum="64MiB" priority="top"', "priority: 'top' is not one of low, normal, high"),
    "another key": ('minimum="64MiB" minumum="1"', "'minumum': unknown: known here are minimum, maximum"),
}


@pytest.mark.parametrize(("attributes", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_policy_is_rejected_in_words_that_name_the_key(attributes: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(attributes)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_domain_whose_name_can_be_no_vms_is_rejected_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=rf'write a \[\[vm\]\] for it, with libvirt = "{UUID}"'):
        policy('minimum="64MiB"', name="a b")


def test_two_policies_are_none() -> None:
    twice = xml(policy='minimum="64MiB"').replace(
        "</metadata>", "<q:policy xmlns:q='urn:dynmem:policy:1'/></metadata>"
    )
    with pytest.raises(ConfigError, match="it has 2 policies"):
        policy_of(definition_of(twice), GIB)
