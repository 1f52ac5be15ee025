"""The journal survives its writer, is bounded, and says what it cannot do."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from tests.rigs.backings import mounted
from tests.rigs.scenes import play

from dynmem.errors import ConfigError, NotPermittedError, RefusedError
from dynmem.limits import JOURNAL_BYTES_MAX, JOURNAL_TEXT_MAX
from dynmem.manager.journal.journal import FILE_NAME, SENT, Instruction, Intent, Journal, JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.private import lock, private_folder
from dynmem.manager.step.takeover import Taken


def intent(vm: str = "web", target: int = 1 << 30) -> Intent:
    return Intent(vm, "17@4711", target, "demand fell", "")


def test_an_intent_is_open_until_its_outcome_is_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first, second = journal.intend([intent("web"), intent("db")], 1000)
    journal.conclude([(first, "sent")], 2000)
    (left,) = journal.open_actions()
    assert (left.id, left.vm, left.at_ns, left.outcome) == (second, "db", 1000, None)
    newest, oldest = journal.recent()
    assert newest.vm == "db"
    assert (oldest.outcome, oldest.outcome_at_ns) == ("sent", 2000)
    journal.close()


def test_an_outcome_is_written_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (number,) = journal.intend([intent()], 1)
    journal.conclude([(number, "sent")], 2)
    journal.conclude([(number, "something else")], 3)
    assert journal.recent()[0].outcome == "sent"
    journal.close()


def test_what_was_intended_survives_a_kill(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from dynmem.manager.journal.journal import *\n"
        "journal = Journal(Path(sys.argv[1])); journal.intend([Intent('web', '1@2', 7, 'r', 'm')], 5)\n"
        "journal.keep(Instruction('released', 'db'), 6)\n"
        "print('written', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    journal = Journal(tmp_path)
    assert [(action.vm, action.target_bytes) for action in journal.open_actions()] == [("web", 7)]
    assert journal.instructions() == [Instruction("released", "db")]
    journal.close()


def test_the_journal_keeps_to_its_bound(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows_max=50)
    for turn in range(40):
        journal.intend([intent()] * 10, turn)
    assert 50 <= len(journal.recent(1000)) <= 100
    assert journal.recent(1)[0].at_ns == 39
    journal.close()


GRANT = "1 GiB of what is measured free"


@pytest.mark.parametrize(
    ("measurement", "outcome", "counts"),
    [
        ("", "sent", True),
        ("", None, False),
        ("", "failed: it is gone", False),
        ("", "unknown: no reply to balloon within 3 s", False),
        ("", "not reached yet, its size is 2 GiB", False),
        ("", "reached, its size is 4 B", True),
        (GRANT, "sent", True),
        (GRANT, None, True),
        (GRANT, "failed: it is gone", False),
        (GRANT, "unknown: no reply to balloon within 3 s", True),
        (GRANT, "not reached yet, its size is 2 GiB", True),
        (GRANT, "reached, its size is 4 B", True),
    ],
)
def test_the_last_target_is_the_newest_that_a_vm_may_be_on_its_way_to(
    measurement: str, outcome: str | None, counts: bool, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    newest = intent("web", 4)._replace(measurement=measurement)
    ids = journal.intend([intent("web", 2), intent("db", 3), newest], 1)
    journal.conclude([(ids[0], "sent"), (ids[1], "sent")], 2)
    if outcome is not None:
        journal.conclude([(ids[2], outcome)], 3)
    targets = {each.vm: each.target_bytes for each in journal.last_targets()}
    assert targets == {"db": 3, "web": 4 if counts else 2}
    journal.close()


def test_a_wish_stands_once_per_vm_until_it_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep(Instruction("reserved", "old", 5, 10), 1)
    journal.keep(Instruction("reserved", "web", 5, 100), 2)
    journal.keep(Instruction("reserved", "web", 6, 200), 50)
    journal.keep(Instruction("released", "web"), 60)
    assert journal.instructions() == [Instruction("released", "web"), Instruction("reserved", "web", 6, 200)]
    journal.drop(Instruction("reserved", "web", 5, 100))  # another one took its place
    journal.drop(Instruction("reserved", "nobody", 5, 200))
    assert len(journal.instructions()) == 2
    journal.drop(Instruction("reserved", "web", 6, 200))
    assert journal.instructions() == [Instruction("released", "web")]
    journal.close()


def test_a_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.execute("PRAGMA user_version=99")
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match="schema version 99"):
        Journal(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


FOREIGN = [
    "CREATE TABLE mail (id)",
    "CREATE TABLE action (id); CREATE TABLE standing (kind)",
    "CREATE TABLE mail (id); PRAGMA user_version=1",
    "CREATE TABLE mail (id); PRAGMA user_version=2",
    "CREATE TABLE mail (id); PRAGMA application_id=1685678189; PRAGMA user_version=2",
    "CREATE TABLE mail (id); PRAGMA application_id=5; PRAGMA user_version=99",
    "PRAGMA journal_mode=WAL; CREATE TABLE mail (id); PRAGMA user_version=1; PRAGMA wal_checkpoint",
]


@pytest.mark.parametrize("statements", FOREIGN)
def test_a_database_of_another_program_is_named_and_never_changed(statements: str, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.executescript(statements)
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match=r"journal\.sqlite: a database of another program: it has not been"):
        Journal(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]


def test_our_journal_with_a_table_that_is_not_ours_is_not_one(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.execute("ALTER TABLE action RENAME COLUMN vm TO name")
    with pytest.raises(ConfigError, match="a database of another program"):
        Journal(tmp_path)


def test_a_journal_whose_making_was_broken_off_is_made(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    (tmp_path / f"{FILE_NAME}.new").write_text("half of it")
    (tmp_path / f"{FILE_NAME}.new-journal").write_text("the other half")
    journal = Journal(tmp_path)
    assert journal.intend([intent()], 1) == [1]
    journal.close()
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_what_is_no_plain_file_is_no_journal(kind: str, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    match kind:
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a plain file of this user"):
        Journal(tmp_path)


def test_a_file_larger_than_any_journal_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / FILE_NAME).open("wb") as file:
        file.truncate(JOURNAL_BYTES_MAX + 1)
    with pytest.raises(ConfigError, match="it has at most"):
        Journal(tmp_path)


def test_on_a_full_disk_the_journal_is_written_in_the_room_that_it_keeps(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "tmpfs", "size=16m") as disk:
        journal = Journal(disk)
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"x" * 4096):
                pass
        assert os.statvfs(disk).f_bavail == 0
        reason = "r" * JOURNAL_TEXT_MAX
        wanted = intent()._replace(reason=reason, measurement=reason)
        for turn in range(5000):  # several times what there is room for: the oldest ones go
            journal.conclude([(number, SENT) for number in journal.intend([wanted], turn)], turn)
        assert journal.recent(1)[0].id == 5000
        assert len(journal.recent(10_000)) > 500
        journal.keep(Instruction("released", "web"), 1)
        journal.close()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_journal_of_a_version_before_is_taken_over_with_what_it_keeps(version: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep(Instruction("reserved", "web", 5, 100), 2)
    journal.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DROP TABLE protection")
        db.execute("PRAGMA user_version=3")
        if version < 3:
            db.execute("DROP TABLE takeover")
            db.execute("PRAGMA user_version=2")
        if version == 1:
            db.execute("ALTER TABLE standing DROP COLUMN incarnation")
            db.execute("PRAGMA user_version=1")
    journal = Journal(tmp_path)
    journal.take(Taken(104, "web", None))
    assert journal.taken() == [Taken(104, "web", None)]
    assert journal.protections() == []
    assert journal.instructions() == [Instruction("reserved", "web", 5, 100)]
    journal.keep(Instruction("reserved", "db", 5, 100, "7@9"), 2)
    assert Instruction("reserved", "db", 5, 100, "7@9") in journal.instructions()
    journal.close()


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("this is not a database, " * 100)
    with pytest.raises(ConfigError, match="not a usable journal"):
        Journal(tmp_path)


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for turn in range(100):
        journal.intend([intent()] * 10, turn)
    journal.close()
    with (tmp_path / FILE_NAME).open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * 4096)
    with pytest.raises(ConfigError, match="not a usable journal"):
        Journal(tmp_path)


def test_a_journal_that_cannot_be_written_says_that_nothing_is_sent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalError, match="until it can be, no VM is shrunk"):
            journal.intend([intent()], 1)
        other.execute("ROLLBACK")
    assert journal.intend([intent()], 2) == [1]
    journal.close()


def test_a_caller_that_goes_away_neither_breaks_its_own_call_off_nor_anothers(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Journal(tmp_path)
        writer = JournalWriter(journal, lambda _: None)
        began, go_on = threading.Event(), threading.Event()

        def slow() -> list[int]:
            with journal._transaction() as db:
                began.set()
                assert go_on.wait(100)
                db.execute("INSERT INTO standing VALUES ('released', 'db', 0, 0, '')")
            return []

        gone = asyncio.create_task(writer.do(slow))
        await asyncio.to_thread(began.wait, 100)
        gone.cancel()
        other = asyncio.create_task(writer.do(partial(journal.intend, [intent()], 1)))
        await asyncio.sleep(0.05)  # as long as the other one would need to come in between
        go_on.set()
        assert await other == [1]
        await writer.finish()
        assert journal.instructions() == [Instruction("released", "db")]
        journal.close()

    play(scenario())


def test_a_journal_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = lock(path, "the state folder")
    with pytest.raises(RefusedError, match=rf"the state folder is in use .* \(process {os.getpid()}\)"):
        lock(path, "the state folder")
    os.close(descriptor)
    os.close(lock(path, "the state folder"))


def test_a_lock_is_never_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPermittedError):
        lock(tmp_path / "lock", "it")
    assert not (tmp_path / "elsewhere").exists()


def test_a_private_folder_is_made_private_and_a_public_one_is_refused(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(NotPermittedError, match="other users may write"):
        private_folder(tmp_path / "open")
    (tmp_path / "file").touch()
    with pytest.raises(NotPermittedError, match="cannot be created"):
        private_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to others")
def test_a_folder_that_another_user_could_replace_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 4321, 4321)
    (tmp_path / "ours").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    private_folder(tmp_path / "link")  # our own link is our own business
    for path in (tmp_path / "theirs", tmp_path / "theirs" / "state", tmp_path / "ours" / ".." / "theirs"):
        with pytest.raises(NotPermittedError, match=r"theirs is a folder of another user \(4321\), who can"):
            private_folder(path)
    assert list((tmp_path / "theirs").iterdir()) == []
    os.chown(tmp_path / "link", 4321, 4321, follow_symlinks=False)
    for path in (tmp_path / "link", tmp_path / "link" / "state"):
        with pytest.raises(NotPermittedError, match="link is a link of another user"):
            private_folder(path)
    assert list((tmp_path / "ours").iterdir()) == []


def test_links_that_lead_in_a_circle_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(NotPermittedError, match="lead in a circle"):
        private_folder(tmp_path / "a" / "state")


def test_a_lock_is_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(NotPermittedError, match="not a plain file"):
        lock(tmp_path / "lock", "it")
