"""Machines that are started with objects, DIMMs and a backend to boot from, and those that cannot be."""

from pathlib import Path

import pytest
from tests.rigs.backings import mounted
from tests.rigs.scenes import play, until
from tests.rigs.vms import BALLOON, MIB, running

from dynmem.cli import main
from dynmem.memory import backend
from dynmem.memory.host_memory import HostMemory

BOOT = 64 * MIB


@pytest.mark.parametrize("kind", ["ram", "memfd", "file"])
def test_boot_memory_and_memory_to_add_may_be_objects_of_any_kind(tmp_path: Path, kind: str) -> None:
    more = f",share=on,mem-path={tmp_path}" if kind == "file" else ",share=off" if kind == "ram" else ""
    options = tuple(
        f"--object=memory-backend-{kind},id={name},size={size}M{more}"
        for name, size in (("boot", 64), ("more", 256), ("dimm", 128))
    )
    options += ("--machine=memory-backend=boot", "--device=pc-dimm,id=d,memdev=dimm")

    async def scene() -> None:
        memory = "64M,maxmem=1G,slots=1"
        async with running(tmp_path, memory=memory, device=f"{BALLOON},memdev=more", options=options) as (
            vm,
            client,
        ):
            await until(vm.console)
            await client.execute("balloon", {"value": 448 * MIB})

            async def grown() -> bool:
                return bool(await client.execute("query-balloon") == {"actual": 448 * MIB})

            await until(grown)
            await until(lambda: vm.console()[-1]["total_pages"] * 4096 == 448 * MIB)
            devices = await client.execute("query-memory-devices")
            # hv-balloon's memory comes first, and both lie above the next boundary of 32 GiB
            assert [(device["type"], device["data"].get("size")) for device in devices] == [
                ("hv-balloon", 256 * MIB),
                ("dimm", 128 * MIB),
            ]
            assert vm.console()[-1]["wrong_bytes"] == 0

    play(scene())


def test_a_machine_that_may_grow_and_says_no_more_has_a_memory_backend_for_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, memory="64M,maxmem=1G") as (_, client):
            (device,) = await client.execute("query-memory-devices")
            assert device["data"]["memdev"] == "/objects/hv-balloon-memory"
            assert device["data"]["max-size"] == 1024 * MIB - BOOT
        (tmp_path / "other").mkdir()
        async with running(tmp_path / "other", memory="64M,maxmem=1G,slots=1") as (_, client):
            (device,) = await client.execute("query-memory-devices")
            assert device["data"]["max-size"] == 0  # it is for DIMMs

    play(scene())


OBJECT = "--object=memory-backend-ram,id=m,size=64M"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--machine=memory-backend=m",),
            "--machine: there is no object 'm' (there are none: add --object memory-",
        ),
        (("--machine=q35",), "--machine 'q35': unknown machine type 'q35'"),
        (
            ("--object=memory-backend-ram,id=m,size=32M", "--machine=memory-backend=m"),
            "the memory backend (-m is 64 MiB, object 'm' is 32 MiB: make them equal)",
        ),
        (
            ("--object=memory-backend-ram,id=pc.ram,size=1M",),
            "'pc.ram' is reserved for the machine's own memory",
        ),
        (
            ("--object=memory-backend-file,id=m,size=1M,mem-path=/nix/x,share=on",),
            "--object 'm': can't open backing store",
        ),
        (("--object=memory-backend-file,id=m,size=1M,mem-path=/dev/shm",), "add share=on"),
        (
            ("--object=memory-backend-ram,id=m,size=0",),
            "--object 'm': can't create backend with size 0 (give it",
        ),
        (
            ("--object=memory-backend-memfd,id=m,size=3M,hugetlb=on,hugetlbsize=2M",),
            "(the size must be a multiple of a huge page, 2 MiB)",
        ),
        (
            ("--object=memory-backend-memfd,id=m,size=64M,hugetlb=on,hugetlbsize=8M",),
            "(this host has huge pages of ",
        ),
        (
            ("--object=memory-backend-memfd,id=m,size=1T,hugetlb=on,hugetlbsize=2M",),
            "Cannot allocate memory (524288 huge pages of 2 MiB are needed: HugePages_Free is ",
        ),
        (("--device=hv-balloon,memdev=m",), "there is no object 'm' (there are none: add --object memory-"),
        (
            (OBJECT, "--device=hv-balloon,memdev=m"),
            "--device 'hv-balloon': the configuration is not prepared",
        ),
        (
            (OBJECT, "--machine=memory-backend=m", "--device=hv-balloon,memdev=m", "-m64M,maxmem=1G"),
            "'memdev' property specifies a busy memdev: m",
        ),
        (
            (OBJECT, "--device=hv-balloon,memdev=m", "-m64M,maxmem=96M"),
            "0x2000000 (maxmem leaves 32 MiB for it, object 'm' has 64 MiB: raise maxmem to 128M)",
        ),
        ((OBJECT, "--device=hv-balloon,memdev=m,addr=4096", "-m64M,maxmem=1G"), "address must be aligned to"),
        (
            (OBJECT, "--device=pc-dimm,memdev=m", "-m64M,maxmem=1G"),
            "the 'slots' option (for example -m 256M,",
        ),
        (
            ("--device=pc-dimm,memdev=m", "-m64M,maxmem=1G,slots=1"),
            "--device pc-dimm,memdev=m: Device 'm' not found (there are none: ",
        ),
        (
            (OBJECT, "--device=pc-dimm,id=d,memdev=n", "-m64M,maxmem=1G,slots=1"),
            "--device 'd': Device 'n' not found (there are 'm')",
        ),
        (
            (OBJECT, "--device=pc-dimm,memdev=m", "--device=pc-dimm,memdev=m", "-m64M,maxmem=1G,slots=2"),
            "can't use already busy memdev: m",
        ),
    ],
)
def test_memory_that_cannot_be_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["vm", "-m64M", *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert ended.value.code == 2


def test_memory_that_a_file_system_has_not_is_said_so_without_a_function_of_qemus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "small", "tmpfs", "size=40m") as place:
        text = f"memory-backend-file,id=m,size=64M,mem-path={place}/m,share=on,prealloc=on"
        with pytest.raises(SystemExit) as ended:
            main(["vm", "-m64M", f"--object={text}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "dynmem: --object 'm': preallocating memory failed: No space left on device"
        f" (40 MiB free at {place}, 64 MiB needed)\n"
    )


def test_memory_that_the_host_has_not_is_refused_before_any_of_it_is_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "host_memory", lambda: HostMemory(1024 * MIB, 64 * MIB))
    with pytest.raises(SystemExit) as ended:
        main(["vm", "-m64M", "--object=memory-backend-ram,id=m,size=64M,prealloc=on"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "dynmem: --object 'm': prealloc: 64 MiB are needed at once, but the host can give only 32 MiB"
    )
