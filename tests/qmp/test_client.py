"""The client: what it makes of a monitor that answers, is busy, is gone, or talks nonsense."""

import asyncio
import contextlib
import gc
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.rigs.scenes import play

from dynmem.errors import DeadlineError, RemoteProtocolError, UnreachableError
from dynmem.limits import (
    QMP_ERROR_TEXT_MAX,
    QMP_EVENTS_BYTES_MAX,
    QMP_EVENTS_KEPT,
    QMP_LINES_PER_TURN,
)
from dynmem.qmp.allowance import BURST_NS, BYTE_NS, MESSAGE_NS, Allowance
from dynmem.qmp.client import QmpClient
from dynmem.qmp.command import Arguments, Command
from dynmem.qmp.errors import BusyError, QmpCommandError
from dynmem.qmp.server import QmpServer
from dynmem.qmp.types import INT, Member, Object

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}}, "capabilities": []}}\r\n'
DONE = b'{"return": {}, "id": 1}\r\n'
EVENT = b'{"event": "X"}\r\n'
LARGE_EVENT = b'{"event": "X", "data": "%s"}\r\n' % (b"x" * 65_000)


async def late(arguments: Arguments) -> object:
    await asyncio.sleep(0.15)
    return arguments["value"]


def refuse(_: Arguments) -> object:
    raise QmpCommandError("GenericError", "no")


VALUE = Object((Member("value", INT),))
COMMANDS = {
    "late": Command(late, VALUE),
    "now": Command(lambda arguments: arguments["value"], VALUE),
    "refuse": Command(refuse),
}


def with_monitor(tmp_path: Path, scene: Callable[[QmpServer, QmpClient], Awaitable[None]]) -> None:
    """Play `scene` with our own monitor and a client of it."""

    async def story() -> None:
        server = QmpServer(tmp_path / "qmp", commands=COMMANDS)
        await server.start()
        async with await QmpClient.connect(tmp_path / "qmp") as client:
            await scene(server, client)
        await server.close()

    play(story())


def with_bytes(tmp_path: Path, scene: Callable[[Path], Awaitable[None]], *sent: bytes, hang_up: bool) -> None:
    """Play `scene` with a listener that sends its first bytes at once, the next when spoken to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for position, data in enumerate(sent):
            if position:
                await reader.readline()
            writer.write(data)
        if not hang_up:
            await reader.read()
        writer.close()

    async def story() -> None:
        async with await asyncio.start_unix_server(serve, tmp_path / "fake"):
            await scene(tmp_path / "fake")

    play(story())


def test_the_peer_is_the_process_that_listens(tmp_path: Path) -> None:
    async def scene(_: QmpServer, client: QmpClient) -> None:
        assert client.peer == (os.getpid(), os.getuid(), os.getgid())

    with_monitor(tmp_path, scene)


def test_answers_go_to_those_who_asked_whatever_the_order_of_asking(tmp_path: Path) -> None:
    async def scene(_: QmpServer, client: QmpClient) -> None:
        asked = [client.execute("late" if n % 7 == 0 else "now", {"value": n}) for n in range(15)]
        assert await asyncio.gather(*asked) == list(range(15))

    with_monitor(tmp_path, scene)


def test_an_error_reply_has_its_class_and_its_words(tmp_path: Path) -> None:
    async def scene(_: QmpServer, client: QmpClient) -> None:
        with pytest.raises(QmpCommandError) as refused:
            await client.execute("refuse")
        assert (refused.value.error_class, refused.value.desc) == ("GenericError", "no")
        with pytest.raises(QmpCommandError, match="The command nix has not been found"):
            await client.execute("nix")

    with_monitor(tmp_path, scene)


def test_commands_that_belong_together_are_sent_as_one_and_each_is_run_also_after_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readline()
        writer.write(DONE)
        for _ in range(3):
            await reader.readline()
        writer.write(b'{"return": 1, "id": 1}\n{"error": {"class": "X", "desc": "no"}, "id": 2}\n')
        writer.write(b'{"return": 3, "id": 3}\n')

    async def story() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "fake")
        async with server, await QmpClient.connect(tmp_path / "fake") as client:
            send = client._send

            async def seen(data: bytes, timeout_s: float) -> None:
                sent.append(data)
                await send(data, timeout_s)

            monkeypatch.setattr(client, "_send", seen)
            with pytest.raises(QmpCommandError, match="no"):
                await client.execute_together([("a", None), ("b", {"value": 1}), ("c", None)])

    play(story())
    (together,) = sent
    assert [json.loads(line)["execute"] for line in together.splitlines()] == ["a", "b", "c"]


def test_results_of_commands_that_belong_together_come_in_their_order(tmp_path: Path) -> None:
    async def scene(_: QmpServer, client: QmpClient) -> None:
        both = [("late", {"value": 1}), ("now", {"value": 2})]
        assert await client.execute_together(both) == [1, 2]

    with_monitor(tmp_path, scene)


def test_numbers_begin_again_when_no_reply_is_due_and_not_after_one_that_may_still_come(
    tmp_path: Path,
) -> None:
    numbers: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        while line := await reader.readline():
            request = json.loads(line)
            numbers.append(request["id"])
            if request["execute"] != "never":
                writer.write(json.dumps({"return": {}, "id": request["id"]}).encode() + b"\n")
        writer.close()

    async def story() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "fake")
        async with server, await QmpClient.connect(tmp_path / "fake") as client:
            for _ in range(3):
                await client.execute_together([("a", None), ("b", None)])
            with pytest.raises(DeadlineError):
                await client.execute_together([("a", None), ("never", None)], timeout_s=0.05)
            for _ in range(2):
                await client.execute("a")

    play(story())
    assert numbers == [1, 1, 2, 1, 2, 1, 2, 1, 2, 3, 4]


@pytest.mark.parametrize("rejects", [False, True])
def test_a_visitor_negotiates_in_the_message_of_its_first_commands(tmp_path: Path, rejects: bool) -> None:
    messages: list[list[str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        while data := await reader.read(1 << 16):
            requests = [json.loads(line) for line in data.splitlines()]
            messages.append([each["execute"] for each in requests])
            for each in requests:
                error = {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation"}
                reply = {"error": error} if rejects else {"return": 1}
                writer.write(json.dumps(reply | {"id": each["id"]}).encode() + b"\n")
        writer.close()

    async def story() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "fake")
        async with server, await QmpClient.connect(tmp_path / "fake", together=True) as client:
            with pytest.raises(QmpCommandError) if rejects else contextlib.nullcontext():
                assert await client.execute_together([("a", None), ("b", None)]) == [1, 1]
            assert client.unasked.replies == 0
            with contextlib.suppress(QmpCommandError):
                await client.execute("c")

    play(story())
    assert messages == [["qmp_capabilities", "a", "b"], ["c"]]


def test_a_monitor_that_stops_reading_is_left_once_nothing_more_can_be_sent(tmp_path: Path) -> None:
    async def scene(path: Path) -> None:
        async with await QmpClient.connect(path) as client:
            with pytest.raises(DeadlineError, match="the monitor reads nothing within"):
                await client.send([("query-status", {"text": "x" * 10_000_000})], timeout_s=0.05)
            assert client.closed.is_set()
            with pytest.raises(UnreachableError, match="stopped reading"):
                await client.execute("query-status")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readline()
        writer.write(DONE)
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def story() -> None:
        async with await asyncio.start_unix_server(serve, tmp_path / "fake"):
            await scene(tmp_path / "fake")

    play(story())


def test_a_late_answer_is_thrown_away_and_the_next_command_gets_its_own(tmp_path: Path) -> None:
    async def scene(_: QmpServer, client: QmpClient) -> None:
        with pytest.raises(DeadlineError, match=r"no reply to late within 0\.05 s"):
            await client.execute("late", {"value": 1}, timeout_s=0.05)
        assert await client.execute("now", {"value": 2}) == 2

    with_monitor(tmp_path, scene)


def test_what_was_sent_ahead_and_is_late_is_late_for_all_that_is_wanted_of_it(tmp_path: Path) -> None:
    async def scene(_: QmpServer, client: QmpClient) -> None:
        batch = await client.send([("late", {"value": 1})], timeout_s=60)
        for timeout_s in (0.01, 60):
            with pytest.raises(DeadlineError, match="no reply to late"):
                await client.wait(batch, timeout_s=timeout_s)
        assert await client.execute("now", {"value": 3}) == 3
        assert client.unasked.replies == 1  # it came, and nobody wants it any more

    with_monitor(tmp_path, scene)


def test_events_are_kept_up_to_a_bound_and_the_lost_ones_counted(tmp_path: Path) -> None:
    async def scene(server: QmpServer, client: QmpClient) -> None:
        for number in range(QMP_EVENTS_KEPT + 3):
            server.emit("TICK", {"number": number})
        await client.execute("now", {"value": 0})
        assert [event.data["number"] for event in client.events] == list(range(3, QMP_EVENTS_KEPT + 3))
        assert client.events_dropped == 3
        assert client.events[0].name == "TICK"
        assert client.events[0].at_us > 1_600_000_000_000_000

    with_monitor(tmp_path, scene)


def test_events_are_kept_up_to_a_number_of_bytes_and_decoded_by_their_reader(tmp_path: Path) -> None:
    event = b'{"event": "TICK", "data": {"lists": [' + b"[]," * 3000 + b"[]]}}\r\n"
    end = b'{"return": {}, "id": 1}\r\n'

    async def scene(path: Path) -> None:
        async with await QmpClient.connect(path) as client:
            await client.execute("query-status")
            kept = sum(len(each.text) for each in client.events)
            assert QMP_EVENTS_BYTES_MAX - len(event) < kept <= QMP_EVENTS_BYTES_MAX
            assert len(client.events) + client.events_dropped == 100
            events = client.take_events()
            assert events[-1].data == {"lists": [[]] * 3001}
            assert client.take_events() == []

    with_bytes(tmp_path, scene, GREETING, DONE, event * 100 + end, hang_up=False)


def test_of_events_only_those_that_are_wanted_are_kept(tmp_path: Path) -> None:
    events = b'{"event": "NOISE"}\r\n' * 2000 + b'{"event": "RESET"}\r\n{"return": {}, "id": 1}\r\n'

    async def scene(path: Path) -> None:
        async with await QmpClient.connect(path, events={"RESET"}) as client:
            await client.execute("query-status")
            assert ([event.name for event in client.events], client.events_dropped) == (["RESET"], 0)
            assert client.unasked.messages == 2001

    with_bytes(tmp_path, scene, GREETING, DONE, events, hang_up=False)


def test_replies_to_no_command_are_counted_and_change_nothing(tmp_path: Path) -> None:
    replies = b'{"return": 1}\r\n{"return": 2, "id": 99}\r\n{"error": {}, "id": "1"}\r\n'

    async def scene(path: Path) -> None:
        async with await QmpClient.connect(path) as client:
            assert await client.execute("query-status") == 3
            assert client.unasked.replies == 3

    with_bytes(tmp_path, scene, GREETING, DONE, replies + b'{"return": 3, "id": 1}\r\n', hang_up=False)


def test_a_reply_of_too_many_values_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    reply = b'{"return": [' + b"[]," * 20_000 + b'[]], "id": 1}\r\n'

    async def scene(path: Path) -> None:
        client = await QmpClient.connect(path)
        with pytest.raises(RemoteProtocolError, match="reply to query-status holds more than 16384 values"):
            await client.execute("query-status")
        assert client.closed.is_set()
        await client.close()

    with_bytes(tmp_path, scene, GREETING, DONE, reply, hang_up=False)


@pytest.mark.parametrize("events", [EVENT * 1000, LARGE_EVENT], ids=["many", "large"])
def test_a_monitor_that_floods_is_read_at_its_share_and_another_is_answered_meanwhile(
    events: bytes, tmp_path: Path
) -> None:
    def cost_ns(client: QmpClient) -> int:
        return client.unasked.messages * MESSAGE_NS + client.unasked.bytes * BYTE_NS

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readline()
        writer.write(DONE)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(events)
                await writer.drain()

    async def scene(_: QmpServer, client: QmpClient) -> None:
        async with await asyncio.start_unix_server(flood, tmp_path / "flood"):
            flooding = await QmpClient.connect(tmp_path / "flood", share=1e-6)
            for number in range(200):
                assert await client.execute("now", {"value": number}) == number
            while cost_ns(flooding) < BURST_NS // 4:
                await client.execute("now", {"value": 1})
            for number in range(50):
                assert await client.execute("now", {"value": number}) == number
            assert cost_ns(flooding) <= BURST_NS + QMP_LINES_PER_TURN * MESSAGE_NS + 2 * len(LARGE_EVENT)
            await flooding.close()

    with_monitor(tmp_path, scene)


def test_an_allowance_is_saved_up_to_its_burst_and_a_debt_is_waited_for() -> None:
    now = [0]
    allowance = Allowance(0.01, lambda: now[0])
    assert allowance.pause_s() == 0
    allowance.spend(BURST_NS)
    assert allowance.pause_s() == 0
    allowance.spend(1_000_000)
    assert allowance.pause_s() == pytest.approx(0.1)
    allowance.spend(-1_000_000)  # it was asked for after all
    assert allowance.pause_s() == 0
    now[0] += 10**12
    assert allowance.pause_s() == 0
    allowance.spend(BURST_NS + 1_000_000)  # what was not used for long is not saved up
    assert allowance.pause_s() == pytest.approx(0.1)


def test_a_monitor_that_goes_away_ends_what_waits_and_what_comes_later(tmp_path: Path) -> None:
    async def scene(server: QmpServer, client: QmpClient) -> None:
        waiting = asyncio.create_task(client.execute("late", {"value": 1}))
        for _ in range(3):
            await asyncio.sleep(0)
        client_end = asyncio.create_task(client.closed.wait())
        for session in list(server._sessions):
            session.drop()
        with pytest.raises(UnreachableError):
            await waiting
        with pytest.raises(UnreachableError):
            await client.execute("now", {"value": 1})
        await client_end

    with_monitor(tmp_path, scene)


def test_commands_that_were_sent_ahead_are_forgotten_with_their_replies(tmp_path: Path) -> None:
    async def scene(_: QmpServer, client: QmpClient) -> None:
        batch = await client.send([("now", {"value": number}) for number in range(3)], timeout_s=60)
        await client.wait(batch, timeout_s=60)
        assert client.result(batch, 2) == 2
        assert not client._waiting

    with_monitor(tmp_path, scene)


def test_a_monitor_that_goes_away_leaves_no_failure_unread_of_what_nobody_wants_any_more(
    tmp_path: Path,
) -> None:
    async def scene(path: Path) -> None:
        unread: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unread.append(context))
        async with await QmpClient.connect(path) as client:
            await client.send([("query-status", None)], timeout_s=60)
            await client.closed.wait()
        client._waiting.clear()
        gc.collect()
        assert unread == []

    with_bytes(tmp_path, scene, GREETING, DONE, b"", hang_up=True)


def test_nobody_listening_is_unreachable_and_says_where(tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(UnreachableError, match="no such socket"):
            await QmpClient.connect(tmp_path / "none")
        (tmp_path / "file").write_text("")
        with pytest.raises(UnreachableError, match=r"file: nothing is listening"):
            await QmpClient.connect(tmp_path / "file")
        with pytest.raises(UnreachableError, match="too long"):
            await QmpClient.connect("x" * 200)

    play(story())


def test_a_monitor_without_a_greeting_is_busy(tmp_path: Path) -> None:
    async def scene(path: Path) -> None:
        with pytest.raises(BusyError, match="serves another client"):
            await QmpClient.connect(path, greeting_timeout_s=0.1)

    with_bytes(tmp_path, scene, hang_up=False)


@pytest.mark.parametrize(
    "sent",
    [b"hello\r\n", b'{"QMP": 1}\n', b'{"event": "X"}\n', b"[]\n", b"\xff\n", b"{" * 600_000, b'{"QMP": {}'],
)
def test_what_is_no_greeting_is_refused(tmp_path: Path, sent: bytes) -> None:
    async def scene(path: Path) -> None:
        with pytest.raises((RemoteProtocolError, UnreachableError)) as refused:
            await QmpClient.connect(path, greeting_timeout_s=2)
        assert not isinstance(refused.value, BusyError)
        assert str(path) in str(refused.value)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    async def story() -> None:
        async with await asyncio.start_unix_server(listen, tmp_path / "fake"):
            await scene(tmp_path / "fake")

    play(story())


@pytest.mark.parametrize("sent", [b"{}\r\n", b"nonsense\r\n", b'{"return": {}, "id": 1', b"x" * 600_000])
def test_garbage_instead_of_an_answer_ends_the_connection(tmp_path: Path, sent: bytes) -> None:
    async def scene(path: Path) -> None:
        client = await QmpClient.connect(path)
        with pytest.raises((RemoteProtocolError, UnreachableError)):
            await client.execute("query-status", timeout_s=2)
        assert client.closed.is_set()
        await client.close()

    with_bytes(tmp_path, scene, GREETING, DONE, sent, hang_up=True)


def test_a_monitor_that_hangs_costs_the_time_that_was_given(tmp_path: Path) -> None:
    async def scene(path: Path) -> None:
        client = await QmpClient.connect(path)
        with pytest.raises(DeadlineError):
            await client.execute("query-status", timeout_s=0.05)
        await client.close()
        with pytest.raises(UnreachableError, match="the connection was closed"):
            await client.execute("query-status")

    with_bytes(tmp_path, scene, GREETING, DONE, hang_up=False)


def test_an_error_without_end_or_with_control_characters_is_shown_short_and_plain(tmp_path: Path) -> None:
    error = b'{"error": {"class": "\\u001b]0;x", "desc": "\\u001b[2J' + b"no " * 10_000 + b'"}, "id": 1}\r\n'

    async def scene(path: Path) -> None:
        async with await QmpClient.connect(path) as client:
            with pytest.raises(QmpCommandError) as refused:
                await client.execute("query-status")
            assert refused.value.desc.startswith("?[2Jno no")
            assert len(refused.value.desc) == QMP_ERROR_TEXT_MAX
            assert refused.value.error_class == "?]0;x"

    with_bytes(tmp_path, scene, GREETING, DONE, error, hang_up=False)
