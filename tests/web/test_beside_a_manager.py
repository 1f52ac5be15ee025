"""The page's figures beside a real manager with VMs that obey: what the manager says is what is served."""

from functools import partial
from pathlib import Path

from tests.rigs.managers import ObedientVm, RunningManager, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.scenes import play, until
from tests.rigs.webs import TOKEN, serving

from dynmem.units import MIB

TIGHT = "300MiB"  # two VMs of 256 MiB do not fit


def test_status_stream_plots_events_and_reasons_are_those_of_the_manager(tmp_path: Path) -> None:
    async def scenario() -> None:
        web_vm, db_vm = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web_vm.serve),
            listening(tmp_path / "db.qmp", db_vm.serve),
            managing(config) as manager,
            serving(tmp_path) as web,
            web.reading() as stream,
        ):
            assert b"content-type: text/event-stream" in stream.head
            kind, first = await stream.event()
            assert (kind, {vm["name"] for vm in first["vms"]}) == ("status", {"web", "db"})
            await manager.until(lambda _: web_vm.actual + db_vm.actual <= (300 - 16) * MIB)
            _, later = await stream.event("status")
            assert later["manager"]["sweeps"] >= first["manager"]["sweeps"]
            served = await web.ask("/api/status")
            assert served.status == 200
            assert served.json["vms"][0].keys() == (await manager.ask(command="status"))["vms"][0].keys()

            web_vm.demand = 200 * MIB
            _, news = await stream.event("happened")
            assert {"schema_version", "kind", "text", "at", "id"} <= news.keys()

            # Twenty sweeps are written at once.
            plot = await web.until("/api/series?of=vm:web&points=50", lambda reply: reply.get("from_s"))
            assert (plot["schema"], plot["of"]) == (1, "vm:web")
            lengths = {len(plot["from_s"])} | {len(each) for each in plot["series"].values()}
            assert len(lengths) == 1
            assert plot["from_s"] == sorted(set(plot["from_s"]))
            assert plot["series"]["actual_bytes"][-1] <= 256 * MIB
            host = (await web.ask("/api/series")).json
            assert host["series"]["budget_bytes"][-1] == 300 * MIB

            events = await web.until(
                "/api/events?limit=1000",
                lambda reply: any(each["kind"] == "moved" for each in reply["events"]),
            )
            ids = [each["id"] for each in events["events"]]
            assert ids == sorted(ids, reverse=True)
            assert {each["kind"] for each in events["events"]} >= {"came", "moved", "started"}
            assert not events["more"]
            two = (await web.ask("/api/events?of=vm:db&limit=2")).json
            assert {each["vm"] for each in two["events"]} == {"db"}
            assert (len(two["events"]), two["more"]) == (2, True)

            now = (await web.ask("/api/explain?vm=web")).json["lines"]
            then = (await web.ask(f"/api/explain?vm=web&at={plot['from_s'][-1] + 60}")).json["lines"]
            assert now[0].startswith("web: ")
            assert "What the host has" in now
            assert any(line.startswith("last move, ") for line in then)

    play(scenario())


def test_with_the_token_a_page_acts_and_the_managers_log_says_by_what(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = ObedientVm()
        config = configured(tmp_path, "enforce", web="")
        async with (
            listening(tmp_path / "web.qmp", vm.serve),
            managing(config) as manager,
            serving(tmp_path, token=TOKEN.encode()) as web,
        ):
            await manager.until(lambda status: status.vm("web").there)
            done = await web.act("pause", vm="web", for_s=600)
            assert (done.status, done.json["paused"]) == (200, ["web"])
            assert (await web.act("resume", vm="web")).json["resumed"] == ["web"]
            assert (await web.act("release", vm="web")).json["released"] == ["web"]
            assert (await web.act("take-up", vm="web")).json["taken_up"] == ["web"]
            made = await web.act("reserve", bytes=MIB, wait_s=5, name="new")
            assert (made.status, made.json["size_bytes"]) == (200, MIB)
            never = await web.act("reserve", bytes=1 << 40, wait_s=0)
            assert never.status == 409
            assert "cannot be made free" in never.json["error"]
            assert (await web.act("pause", vm="nosuch", for_s=1)).status == 400
            for command in ("pause", "resume", "release", "take-up"):
                await until(partial(_is_logged, manager, f"web: {command} requested by"))

    play(scenario())


def _is_logged(manager: RunningManager, words: str) -> bool:
    return any(words in line and line.endswith(", by the web page") for line in manager.lines)
