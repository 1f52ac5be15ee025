"""Shared modules: what registers, what matches across VMs, and what is refused and then changes nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from tests.gmm.naive_pages import regions_of

from dynmem.gmm.codes import GmmError, OsFamily, Status
from dynmem.gmm.constants import (
    GMM_MAX_SHARED_GLOBAL_MODULES,
    GMM_MAX_SHARED_PER_VM_MODULES,
    MAX_MODULE_SIZE,
)
from dynmem.gmm.modules import ModuleRegistry, Region
from dynmem.gmm.structures import GMMSHAREDREGIONDESC, Records

BASE = 0x7FF0_0000_0000
TEXT = Region(BASE + 0x1000, 0x3000)
DATA = Region(BASE + 0x4800, 0x1000)


def register(
    registry: ModuleRegistry,
    vm: str = "a",
    *,
    os_family: int = OsFamily.WINDOWS64,
    name: str = "kernel32.dll",
    version: str = "10.0.1",
    base: int = BASE,
    size: int = 0x6000,
    regions: Records | None = None,
) -> Status:
    if regions is None:
        regions = regions_of(*(Region(one.address + base - BASE, one.size) for one in (TEXT, DATA)))
    return registry.register(vm, os_family, name, version, base, size, regions)


def snapshot(registry: ModuleRegistry) -> object:
    return (
        {key: (module.users, id(module)) for key, module in registry._global.items()},
        {
            (vm, base): (id(one.module), one.regions)
            for vm, own in registry._by_vm.items()
            for base, one in own.items()
        },
    )


def test_the_same_module_of_two_vms_is_one_wherever_each_has_it() -> None:
    registry = ModuleRegistry()
    assert register(registry, "a") is Status.SUCCESS
    assert register(registry, "b", base=BASE + 0x50_0000) is Status.SUCCESS
    assert len(registry) == 1
    here, there = registry.find("a", BASE), registry.find("b", BASE + 0x50_0000)
    assert here.module is there.module
    assert here.module.users == 2
    assert there.regions == (
        Region(TEXT.address + 0x50_0000, TEXT.size),
        Region(DATA.address + 0x50_0000, DATA.size),
    )


def test_a_module_that_is_registered_again_is_reported_and_counted_once() -> None:
    registry = ModuleRegistry()
    register(registry)
    before = snapshot(registry)
    assert register(registry) is Status.SHARED_MODULE_ALREADY_REGISTERED
    assert snapshot(registry) == before


@pytest.mark.parametrize(
    "other",
    [
        {"name": "kernel33.dll"},
        {"version": "10.0.2"},
        {"size": 0x7000},
        {"os_family": OsFamily.LINUX64},
        {"regions": regions_of(TEXT)},
        {"regions": regions_of(TEXT, Region(DATA.address, DATA.size + 1))},
        {"regions": regions_of(TEXT, Region(DATA.address + 8, DATA.size))},
        {"name": "kernel32.dll::10", "version": ".0.1"},
    ],
)
def test_modules_that_differ_in_anything_are_two(other: dict[str, object]) -> None:
    registry = ModuleRegistry()
    register(registry, "a")
    assert register(registry, "b", **other) is Status.SUCCESS  # type: ignore[arg-type]
    assert len(registry) == 2
    with pytest.raises(GmmError) as refused:
        register(registry, "a", **other)  # type: ignore[arg-type]
    assert refused.value.code is Status.SHARED_MODULE_ADDRESS_CLASH


def test_a_name_has_127_bytes_at_most_and_a_version_15() -> None:
    registry = ModuleRegistry()
    assert register(registry, name="n" * 127, version="v" * 15) is Status.SUCCESS
    assert register(registry, base=BASE + 0x10_0000, name="ü" * 63 + "n") is Status.SUCCESS
    before = snapshot(registry)
    for code, name, version in (
        (Status.MODULE_NAME_TOO_LONG, "n" * 128, "v"),
        (Status.MODULE_NAME_TOO_LONG, "ü" * 64, "v"),
        (Status.MODULE_VERSION_TOO_LONG, "n", "v" * 16),
        (Status.INVALID_PARAMETER, "n\0n", "v"),
        (Status.INVALID_PARAMETER, "n", "\ud800"),
    ):
        with pytest.raises(GmmError) as refused:
            register(registry, base=BASE + 0x20_0000, name=name, version=version)
        assert refused.value.code is code
        with pytest.raises(GmmError) as refused:
            registry.unregister("a", name, version, BASE, 0x6000)
        assert refused.value.code is code
    assert snapshot(registry) == before


GIB = MAX_MODULE_SIZE
REFUSED: list[tuple[Status, Callable[[ModuleRegistry], object]]] = [
    (Status.TOO_MANY_REGIONS, lambda it: register(it, "b", regions=regions_of(*[TEXT] * 33))),
    (Status.BAD_SHARED_MODULE_SIZE, lambda it: register(it, "b", size=0)),
    (Status.BAD_SHARED_MODULE_SIZE, lambda it: register(it, "b", size=GIB + 1)),
    (
        Status.SHARED_MODULE_BAD_REGIONS_SIZE,
        lambda it: register(it, "b", regions=regions_of(Region(BASE, 0))),
    ),
    (
        Status.SHARED_MODULE_BAD_REGIONS_SIZE,
        lambda it: register(it, "b", regions=regions_of(Region(BASE, GIB + 1))),
    ),
    (
        Status.SHARED_MODULE_BAD_REGIONS_SIZE,
        lambda it: register(it, "b", regions=regions_of(Region(BASE, GIB), Region(BASE, 1))),
    ),
    (
        Status.INVALID_PARAMETER,
        lambda it: register(it, "b", regions=regions_of(Region((1 << 64) - 0x1000, 0x1001))),
    ),
    (Status.INVALID_PARAMETER, lambda it: register(it, "b", base=-1, regions=regions_of(TEXT))),
    (Status.INVALID_PARAMETER, lambda it: register(it, "b", base=1 << 64, regions=regions_of(TEXT))),
    (Status.INVALID_PARAMETER, lambda it: register(it, "b", os_family=-1)),
    (Status.SHARED_MODULE_ADDRESS_CLASH, lambda it: register(it, "a", name="other")),
    (Status.SHARED_MODULE_NOT_FOUND, lambda it: it.unregister("b", "kernel32.dll", "10.0.1", BASE, 0x6000)),
    (
        Status.SHARED_MODULE_NOT_FOUND,
        lambda it: it.unregister("a", "kernel32.dll", "10.0.1", BASE + 1, 0x6000),
    ),
    (Status.SHARED_MODULE_NOT_FOUND, lambda it: it.unregister("a", "kernel33.dll", "10.0.1", BASE, 0x6000)),
    (Status.SHARED_MODULE_NOT_FOUND, lambda it: it.unregister("a", "kernel32.dll", "10.0.2", BASE, 0x6000)),
    (Status.SHARED_MODULE_NOT_FOUND, lambda it: it.unregister("a", "kernel32.dll", "10.0.1", BASE, 0x6001)),
    (Status.SHARED_MODULE_NOT_FOUND, lambda it: it.find("b", BASE)),
    (Status.SHARED_MODULE_NOT_FOUND, lambda it: it.describe("a", 0)),
]


@pytest.mark.parametrize(("code", "call"), REFUSED)
def test_a_refused_call_has_its_code_and_changes_nothing(
    code: Status, call: Callable[[ModuleRegistry], object]
) -> None:
    registry = ModuleRegistry()
    register(registry)
    before = snapshot(registry)
    with pytest.raises(GmmError) as refused:
        call(registry)
    assert refused.value.code is code
    assert snapshot(registry) == before
    registry.verify()


def test_sizes_at_the_limits_are_accepted() -> None:
    registry = ModuleRegistry()
    assert register(registry, size=GIB, regions=regions_of(Region(BASE, GIB))) is Status.SUCCESS
    last = Region((1 << 64) - 0x1000, 0x1000)
    assert register(registry, "b", size=1, regions=regions_of(*[last] * 32)) is Status.SUCCESS
    assert register(registry, "c", base=(1 << 64) - 1, regions=regions_of()) is Status.SUCCESS


def test_a_vm_has_2048_modules_and_a_host_16834() -> None:
    registry, region = ModuleRegistry(), regions_of(TEXT)

    def fill(vm: str, number: int) -> Status:
        return registry.register(vm, 0, f"module {number}", "1", number << 12, 0x4000, region)

    for number in range(GMM_MAX_SHARED_GLOBAL_MODULES):
        assert fill(f"vm {number // GMM_MAX_SHARED_PER_VM_MODULES}", number) is Status.SUCCESS
    before = snapshot(registry)
    for code, vm, number in (
        (Status.TOO_MANY_PER_VM_MODULES, "vm 0", GMM_MAX_SHARED_GLOBAL_MODULES - 1),
        (Status.TOO_MANY_GLOBAL_MODULES, "another", GMM_MAX_SHARED_GLOBAL_MODULES),
    ):
        with pytest.raises(GmmError) as refused:
            fill(vm, number)
        assert refused.value.code is code
    assert snapshot(registry) == before
    assert fill("another", 0) is Status.SUCCESS
    assert registry.reset("vm 0") == GMM_MAX_SHARED_PER_VM_MODULES
    assert len(registry) == GMM_MAX_SHARED_GLOBAL_MODULES - GMM_MAX_SHARED_PER_VM_MODULES + 1
    assert fill("another", GMM_MAX_SHARED_GLOBAL_MODULES) is Status.SUCCESS
    registry.verify()


def test_a_module_ends_with_its_last_user() -> None:
    registry = ModuleRegistry()
    register(registry, "a")
    register(registry, "a", base=BASE + 0x10_0000)
    register(registry, "b")
    assert registry.find("a", BASE).module.users == 3
    registry.unregister("a", "kernel32.dll", "10.0.1", BASE, 0x6000)
    assert registry.reset("a") == 1
    assert registry.reset("a") == 0
    assert registry.find("b", BASE).module.users == 1
    registry.unregister("b", "kernel32.dll", "10.0.1", BASE, 0x6000)
    assert len(registry) == 0
    assert registry.of("b") == []


def test_a_region_has_all_pages_that_it_touches() -> None:
    assert Region(0x1000, 0x1000).pages == 1
    assert Region(0x1FFF, 1).pages == 1
    assert Region(0x1FFF, 2).pages == 2
    assert Region(0x1800, 0x1000).pages == 2


def test_a_module_is_described_with_its_users_its_regions_and_their_shared_pages() -> None:
    registry = ModuleRegistry()
    register(registry, "a")
    register(registry, "b", base=BASE + 0x10_0000)
    registry.find("a", BASE).module.shared_pages(1)[0] = 0x201
    module, regions, page_ids = registry.describe("b", BASE + 0x10_0000)
    record = module[0]
    assert record["Core"]["Key"] == BASE + 0x10_0000
    assert (record["cbModule"], record["cRegions"], record["cUsers"]) == (0x6000, 2, 2)
    assert record["enmGuestOS"] == OsFamily.WINDOWS64
    assert (record["szName"], record["szVersion"]) == (b"kernel32.dll", b"10.0.1")
    assert regions.dtype == GMMSHAREDREGIONDESC
    assert record["aRegions"][0] == regions[0]
    assert regions["GCRegionAddr"].tolist() == [TEXT.address + 0x10_0000, DATA.address + 0x10_0000]
    assert regions["cbRegion"].tolist() == [TEXT.size, DATA.size]
    assert [ids.tolist() for ids in page_ids] == [[0, 0, 0], [0x201, 0]]
    page_ids[0][:] = 7
    assert not np.any(registry.find("a", BASE).module.shared_pages(0))


def test_a_module_without_regions_is_described() -> None:
    registry = ModuleRegistry()
    register(registry, regions=regions_of())
    module, regions, page_ids = registry.describe("a", BASE)
    assert module[0]["cRegions"] == 0
    assert len(regions) == 0
    assert page_ids == []
