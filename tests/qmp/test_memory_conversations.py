"""Our monitor and a real QEMU 10 answer alike to commands about memory, but for what is listed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.qmp.memory_conversations import SCENES, Scene
from tests.qmp.memory_differences import BALLOON_PROPERTIES, DIFFERENCES, GREETING, OUR_SCHEMA, SCHEMA
from tests.qmp.schema_shape import shape
from tests.qmp.two_monitors import (
    Player,
    last_words,
    our_monitor,
    played,
    qemu_monitor,
    start_ours,
    start_qemu,
)
from tests.rigs.scenes import play
from tests.rigs.unpacked import unpacked_qemu

pytestmark = pytest.mark.qemu


@pytest.fixture
def qemu() -> Player:
    return qemu_monitor(unpacked_qemu())


def folders(tmp_path: Path) -> tuple[Path, Path]:
    ours, theirs = tmp_path / "ours", tmp_path / "qemu"
    ours.mkdir()
    theirs.mkdir()
    return ours, theirs


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_both_answer_the_same_but_for_what_is_listed(scene: Scene, qemu: Player, tmp_path: Path) -> None:
    async def story() -> tuple[dict[str, object], dict[str, object]]:
        our_folder, folder = folders(tmp_path)
        return await asyncio.gather(played(scene, our_monitor, our_folder), played(scene, qemu, folder))

    ours, theirs = play(story())
    listed = DIFFERENCES.get(scene.name, {})
    found = {text for text in {**theirs, **ours} if ours.get(text) != theirs.get(text)}
    unlisted = [
        f"{text}\n  QEMU 10: {theirs.get(text)}\n  ours:    {ours.get(text)}"
        for text in sorted(found)
        if text not in listed or listed[text].ours != ours.get(text)
    ]
    assert not unlisted, "\n".join(unlisted)
    assert found == set(listed), "what is listed as a difference is one"


def test_greeting_and_schema_are_the_same_but_for_what_is_listed(qemu: Player, tmp_path: Path) -> None:
    async def look(player: Player, folder: Path) -> tuple[dict[str, Any], dict[str, set[str]]]:
        async with player(Scene("schema", "256M", []), folder) as monitor:
            schema = await monitor.ask("query-qmp-schema")
            return monitor.greeting, shape(schema["return"])

    async def both() -> Any:
        our_folder, folder = folders(tmp_path)
        return await asyncio.gather(look(our_monitor, our_folder), look(qemu, folder))

    (our_greeting, ours), (greeting, theirs) = play(both())
    ours_says, theirs_says = our_greeting["QMP"], greeting["QMP"]
    assert set(ours_says) == set(theirs_says)
    assert {name for name in ours_says if ours_says[name] != theirs_says[name]} == set(GREETING)

    shared = {name for name in ours if not name.startswith(("x-", "X_"))}
    assert shared <= set(theirs)
    assert {name for name in shared if theirs[name] - ours[name]} == set(SCHEMA)
    only_ours = {name: ours[name] - theirs[name] for name in shared if ours[name] - theirs[name]}
    assert only_ours == {name: lines for name, (lines, _) in OUR_SCHEMA.items()}


def test_hv_balloon_has_the_properties_that_it_has_in_qemu(qemu: Player, tmp_path: Path) -> None:
    scene = Scene("hv-balloon", "256M,maxmem=1G", [], balloon=True)

    async def ask(player: Player, folder: Path, command: str, name: str, value: str) -> dict[str, str]:
        async with player(scene, folder) as monitor:
            answer = await monitor.ask(command, {name: value})
            return {entry["name"]: entry["type"] for entry in answer["return"]}

    async def both() -> Any:
        our_folder, folder = folders(tmp_path)
        return await asyncio.gather(
            ask(our_monitor, our_folder, "qom-list", "path", "b"),
            ask(qemu, folder, "qom-list-properties", "typename", "hv-balloon"),
        )

    ours, theirs = play(both())
    differing = {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)}
    assert differing == set(BALLOON_PROPERTIES)


MEMORY = ("memory-backend-ram,id=m,size=128M",)
REFUSED = [
    Scene("no such slot", "256M,maxmem=1G,slots=2", [], "", MEMORY, ("pc-dimm,memdev=m,slot=2",)),
    Scene("no such memory", "256M,maxmem=1G,slots=2", [], "", MEMORY, ("pc-dimm,memdev=n",)),
    Scene("no slots", "256M", [], "", MEMORY, ("pc-dimm,memdev=m",)),
    Scene("too little room", "256M,maxmem=320M,slots=2", [], "", MEMORY, ("pc-dimm,memdev=m",)),
    Scene("busy memory", "256M,maxmem=1G,slots=2", [], "", MEMORY, ("pc-dimm,memdev=m",) * 2),
]


@pytest.mark.parametrize("scene", REFUSED, ids=lambda scene: scene.name)
def test_both_refuse_to_start_with_the_same_words(scene: Scene, tmp_path: Path) -> None:
    our_folder, folder = folders(tmp_path)
    ours = start_ours(scene, our_folder).process
    theirs = start_qemu(unpacked_qemu(), scene, folder)
    assert last_words(ours, our_folder / "log") == last_words(theirs, folder / "log")
