"""The manager's books: one set for all that is decided and shown, also after a manager that was killed."""

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.rigs.obedient import CALM, ObedientHost

from dynmem.gmm import Account, BalloonAction, CountedBooks
from dynmem.gmm import Priority as GmmPriority
from dynmem.gmm.structures import GMMSTATS, GMMVMSTATS
from dynmem.manager.journal.journal import SENT, Intent, Journal
from dynmem.manager.journal.recovery import take_over
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import SILENT, Demand, ManagerSettings, VmConfig
from dynmem.manager.step.results import SetBalloon
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

HOST = ManagerSettings(1 * GIB, 0, NS_PER_S, "enforce")


def crowd(*minimums: int, **more: Any) -> tuple[ObedientHost, list[VmConfig]]:
    names = ("web", "db", "batch")
    configs = [
        VmConfig(name, minimum * MIB, 1 * GIB, **more) for name, minimum in zip(names, minimums, strict=False)
    ]
    return ObedientHost(HOST, configs, {config.name: 100 * MIB for config in configs}), configs


# -- a VM that does not fit ---------------------------------------------------------------------------------


def full() -> ObedientHost:
    """Two VMs whose minimums fill the host run; a third appears, with a guest that then needs more.

    One of the two does not take all that it is due: there is memory that the third could be given.
    """
    host, _ = crowd(512, 448, 128)
    del host.demands["batch"]
    host.overrides["web"] = {
        "boot_bytes": 256 * MIB,
        "actual_bytes": 256 * MIB,
        "resident_bytes": 100 * MIB,
        "limit_bytes": 1 * GIB,
    }
    host.sweep(60)
    host.demands["batch"], host.sizes["batch"] = 100 * MIB, 128 * MIB
    host.overrides["batch"] = {"boot_bytes": 128 * MIB, "limit_bytes": 1 * GIB}
    host.sweep(8)
    host.demands["batch"] = 300 * MIB
    host.overrides["batch"]["demand"] = Demand(300 * MIB, 0, "committed", 1)
    host.sweep(8)
    return host


def test_a_running_vm_that_does_not_fit_is_taken_in_as_it_is_and_never_grown() -> None:
    host = full()
    vm = host.manager.status().vm("batch")
    assert vm.actual_bytes == host.sizes["batch"] == 128 * MIB
    assert vm.books is not None
    assert not vm.books.may_allocate
    assert vm.standing == "movable"


def test_a_vm_that_does_not_fit_is_told_why() -> None:
    reason = full().manager.status().vm("batch").reason
    assert (
        "does not fit, and is not grown: its minimum is 128 MiB, those of the others (960 MiB) leave 64 MiB"
        " of 1 GiB: end a VM, or lower a minimum"
    ) in reason


def test_a_vm_that_did_not_fit_grows_as_soon_as_it_fits() -> None:
    host = full()
    del host.demands["db"]
    host.sweep(4)
    vm = host.manager.status().vm("batch")
    assert vm.books is not None
    assert vm.books.may_allocate
    assert vm.books.may_not_allocate_why == ""
    assert host.sizes["batch"] >= 300 * MIB


def test_others_give_nothing_they_use_for_a_vm_that_does_not_fit() -> None:
    host = full()
    assert not any(
        "shortage" in line for _ in range(4) for line in host.sweep().changes
    )  # what batch lacks is no shortage of the host's


@pytest.mark.parametrize("order", [("high", "low"), ("low", "high")])
def test_of_vms_that_are_found_together_the_one_of_higher_priority_fits(order: tuple[Any, Any]) -> None:
    names = ("first", "second")
    configs = [
        VmConfig(name, 600 * MIB, 1 * GIB, priority=each) for name, each in zip(names, order, strict=True)
    ]
    host = ObedientHost(HOST, configs, dict.fromkeys(names, 100 * MIB))
    host.sweep(4)
    for config in configs:
        books = host.manager.status().vm(config.name).books
        assert books is not None
        assert books.may_allocate is (config.priority == "high")


def test_a_vm_that_is_to_be_ended_since_memory_is_out_is_not_grown_and_told_why() -> None:
    configs = [
        VmConfig("web", 64 * MIB, 1 * GIB, priority="high"),
        VmConfig("batch", 64 * MIB, 1 * GIB, priority="low", on_out_of_memory=("/bin/true",)),
    ]
    host = ObedientHost(HOST, configs, {"web": 200 * MIB, "batch": 600 * MIB})
    interrupted = 0
    for sweep in range(40):
        spare = max(0, host.sizes["batch"] - 600 * MIB)
        host.overrides["batch"] = {"demand": Demand(600 * MIB, spare, "used", 1)}
        host.demands["web"] = (200 if sweep < 8 else 700) * MIB
        interrupted += host.sweep().interrupt is not None
    assert interrupted == 1
    vm = host.manager.status().vm("batch")
    assert vm.books is not None
    assert vm.books.may_not_allocate_why.endswith("memory is out, and it is to be saved or ended")
    assert vm.books.may_not_allocate_why in vm.reason


def test_a_vm_that_was_admitted_fits_although_another_came_in_between() -> None:
    host, _ = crowd(512, 448, 128)
    for name in ("db", "batch"):
        del host.demands[name]
    host.sweep(8)
    made = host.manager.reserve("db", 448 * MIB, host.now_ns, host.now_ns + 60 * NS_PER_S)
    assert made.state != "refused"
    host.demands["batch"], host.sizes["batch"] = 100 * MIB, 128 * MIB
    host.sweep(4)
    host.demands["db"], host.sizes["db"] = 100 * MIB, 448 * MIB
    host.overrides["db"] = {"boot_bytes": 448 * MIB}
    host.sweep(4)
    may = {}
    for name in ("web", "db", "batch"):
        books = host.manager.status().vm(name).books
        assert books is not None
        may[name] = books.may_allocate
    assert may == {"web": True, "db": True, "batch": False}


def test_an_admitted_vm_that_is_there_and_has_not_reported_counts_once_beside_its_reservation() -> None:
    host, _ = crowd(256, 448)
    del host.demands["db"]
    host.sweep(8)
    least = host.manager.status().books.least_bytes
    host.manager.reserve("db", 512 * MIB, host.now_ns, host.now_ns + 60 * NS_PER_S)
    host.demands["db"], host.sizes["db"] = 100 * MIB, 512 * MIB
    host.overrides["db"] = {"boot_bytes": 512 * MIB, "demand": None}
    host.sweep(4)
    assert host.manager.is_reserved("db")
    more = host.manager.status().books.least_bytes - least
    assert more // MIB == 448  # and a page or two of accounts that no VM here uses
    last = host.manager.reserve("new", 256 * MIB, host.now_ns, host.now_ns + NS_PER_S)
    assert last.state != "refused"


def test_an_error_in_the_books_decides_who_is_admitted() -> None:
    host, _ = crowd(64, 64)
    host.sweep(4)

    def state() -> str:
        made = host.manager.reserve("new", 640 * MIB, host.now_ns, host.now_ns + NS_PER_S)
        host.manager.drop_reservation(made)
        return made.state

    assert state() != "refused"
    host.manager.claims.gmm.limit_balloon("web", 512 * MIB // PAGE_SIZE)
    assert state() == "refused"


@pytest.mark.parametrize("moment", range(14))
def test_a_vm_that_ends_leaves_nothing_in_the_books_whatever_the_moment(moment: int) -> None:
    host, _ = crowd(64, 64, 64)
    host.demands = {"web": 300 * MIB, "db": 200 * MIB, "batch": 100 * MIB}
    host.sweep(2)
    for sweep in range(moment):
        host.demands["batch"] = 400 * MIB if sweep > 5 else 100 * MIB
        host.now_ns += NS_PER_S
        for each in host.manager.step(host.facts()).commands:
            if sweep % 3:  # some commands were never carried out
                host.sizes[each.vm] = each.target_bytes
    del host.demands["web"]
    host.now_ns += NS_PER_S
    host.manager.step(host.facts())  # the next sweep is a period later
    gmm = host.manager.claims.gmm.verify()
    assert "web" not in gmm
    totals = gmm.query_statistics()
    assert totals.vms == 2
    assert totals.allocated_pages == gmm.allocated("db") + gmm.allocated("batch")


def test_another_priority_changes_nothing_else_in_the_books() -> None:
    host, configs = crowd(64, 64)
    host.sweep(6)
    gmm = host.manager.claims.gmm
    before = gmm.query_statistics("web")
    low = [msgspec.structs.replace(config, priority="low") for config in configs]
    host.manager.configure(HOST, low)
    after = gmm.query_statistics("web")
    assert before.vm is not None
    assert after.vm == msgspec.structs.replace(before.vm, priority=GmmPriority.LOW)
    assert msgspec.structs.replace(after, vm=before.vm) == before


def test_what_a_late_guest_owes_is_not_on_its_way_though_it_gives_a_little_all_the_time() -> None:
    host, _ = crowd(64, 64)
    coming = []
    for sweep in range(20):
        host.now_ns += NS_PER_S
        host.manager.step(host.facts())
        coming.append(host.manager.status().books.under_way_bytes)
        for name in host.sizes:
            host.sizes[name] -= 8 * MIB if sweep > 1 else 0
    asked = [vm.books.requested_bytes for vm in host.manager.status().vms if vm.books is not None]
    assert min(asked) > 0
    assert max(coming) > 512 * MIB
    assert coming[-8:] == [0] * 8


def test_what_a_late_guest_owes_is_on_its_way_again_once_it_has_time_again() -> None:
    host, _ = crowd(64, 64)

    def owes() -> tuple[int, int]:
        """Step, and return what the guest of web is asked for, and what is on its way from all."""
        host.now_ns += NS_PER_S
        host.manager.step(host.facts())
        books = host.manager.status().vm("web").books
        assert books is not None
        return books.requested_bytes, host.manager.status().books.under_way_bytes

    for sweep in range(12):
        before = owes()
        for name in host.sizes:
            host.sizes[name] -= 8 * MIB if sweep > 1 else 0
    assert before[0] > 0
    assert before[1] == 0
    host.overrides["web"] = {"run_state": "paused"}  # it can give nothing, and is not late for that
    asked, coming = owes()
    assert coming == 0
    assert owes() == (asked, asked)


def test_a_target_that_is_brought_back_is_asked_for_no_longer() -> None:
    host, _ = crowd(64, 64)
    for _ in range(12):  # no guest gives anything
        host.now_ns += NS_PER_S
        host.manager.step(host.facts())
        view = host.manager.status().vm("web")
        if "floor met" in view.reason:
            break
    assert "floor met" in view.reason
    assert view.books is not None
    assert view.books.requested_bytes == 0


def test_a_command_that_was_not_sent_is_asked_for_no_longer() -> None:
    host, _ = crowd(64, 64)
    sent: tuple[SetBalloon, ...] = ()
    while not sent:
        host.now_ns += NS_PER_S
        sent = host.manager.step(host.facts()).commands
    host.manager.not_sent([each.vm for each in sent])
    for vm in host.manager.status().vms:
        if vm.books is not None:
            assert vm.books.requested_bytes == 0


# -- one set of books ---------------------------------------------------------------------------------------


def commands(manager: Manager, host: ObedientHost) -> tuple[SetBalloon, ...]:
    return manager.step(host.facts()).commands


def test_a_planted_error_in_the_books_changes_the_next_plan() -> None:
    """Nothing is counted beside them: if they are wrong, the plan is."""
    host, _ = crowd(64, 64)
    host.sweep(8)
    host.overrides["db"] = {"run_state": SILENT, "resident_bytes": None, "actual_bytes": None, "demand": None}
    host.sweep(2)
    host.now_ns += NS_PER_S
    host.demands["web"] = 600 * MIB
    right, wrong = host.manager, pickle.loads(pickle.dumps(host.manager))
    planted = 128 * MIB // PAGE_SIZE
    books = wrong.claims.gmm.figures("db")
    wrong.claims.gmm.ballooned_pages("db", BalloonAction.DEFLATE, books.ballooned)
    wrong.claims.gmm.adopt_pages("db", planted, Account.BASE)
    plans = [manager.step(host.facts()).plan.decisions for manager in (right, wrong)]
    assert plans[0] != plans[1]
    frees = [manager.status().measured_free for manager in (right, wrong)]
    assert frees[0] is not None
    assert frees[1] is not None
    assert frees[0].budget_term_bytes - frees[1].budget_term_bytes == planted * PAGE_SIZE


# The names of the original's fields and ours; `au64Reserved` and `afReserved` are padding.
TOTALS = {
    "cMaxPages": "max_bytes",
    "cReservedPages": "reserved_bytes",
    "cOverCommittedPages": "over_committed_bytes",
    "cAllocatedPages": "allocated_bytes",
    "cSharedPages": "shared_bytes",
    "cDuplicatePages": "duplicate_bytes",
    "cLeftBehindSharedPages": "left_behind_bytes",
    "cBalloonedPages": "ballooned_bytes",
    "cChunks": "chunks",
    "cFreedChunks": "freed_chunks",
    "cShareableModules": "shareable_modules",
}
ONE = {
    "cPrivatePages": "private_bytes",
    "cSharedPages": "shared_bytes",
    "cBalloonedPages": "ballooned_bytes",
    "cMaxBalloonedPages": "max_ballooned_bytes",
    "cReqBalloonedPages": "requested_bytes",
    "cReqActuallyBalloonedPages": "given_bytes",
    "cReqDeflatePages": "returning_bytes",
    "fBallooningEnabled": "ballooning_enabled",
    "fSharedPagingEnabled": "shared_paging_enabled",
    "fMayAllocate": "may_allocate",
}


def test_the_status_shows_every_field_of_the_statistics() -> None:
    host, _ = crowd(64, 64)
    host.demands["db"] = 300 * MIB
    host.sweep(8)
    host.demands["web"] = 500 * MIB
    host.manager.step(host.facts())  # what it decides is not carried out: requests are open
    gmm, view = host.manager.claims.gmm, host.manager.status()
    stats = gmm.query_statistics("web").structure()
    assert set(GMMSTATS.names or ()) == {*TOTALS, "au64Reserved", "VMStats"}
    assert set(GMMVMSTATS.names or ()) == {
        *ONE,
        "Reserved",
        "Allocated",
        "enmPolicy",
        "enmPriority",
        "afReserved",
    }
    for field, ours in TOTALS.items():
        unit = PAGE_SIZE if ours.endswith("_bytes") else 1
        assert getattr(view.books, ours) == stats[field] * unit, field
    books = view.vm("web").books
    assert books is not None
    for field, ours in ONE.items():
        unit = PAGE_SIZE if ours.endswith("_bytes") else 1
        assert getattr(books, ours) == stats["VMStats"][field] * unit, field
    for field, sizes in (("Reserved", books.reserved), ("Allocated", books.allocated)):
        found = [int(pages) * PAGE_SIZE for pages in stats["VMStats"][field].item()]
        assert found == list(msgspec.structs.astuple(sizes))
    assert (books.policy, books.priority) == ("ratio", "normal")


def test_the_books_say_what_a_guest_is_asked_for_has_given_and_is_offered() -> None:
    configs = [VmConfig(name, 64 * MIB, 1 * GIB) for name in ("web", "db")]
    host = ObedientHost(HOST, configs, {"web": 100 * MIB, "db": 100 * MIB}, safeguards=CALM)
    host.now_ns += NS_PER_S
    for _ in range(3):
        host.now_ns += NS_PER_S
        host.manager.step(host.facts())
    asked = host.manager.status().vm("web").books
    assert asked is not None
    assert asked.requested_bytes > 0
    target = 1 * GIB - asked.requested_bytes
    assert host.manager.status().books.under_way_bytes >= asked.requested_bytes
    host.sizes["web"] = target
    host.now_ns += NS_PER_S
    host.manager.step(host.facts())
    after = host.manager.status().vm("web").books
    assert after is not None
    assert after.requested_bytes < asked.requested_bytes
    assert after.given_bytes > 0


# -- a manager that is killed -------------------------------------------------------------------------------


class Journalled:
    """A host whose manager writes what it is about to do, and can be killed before or after it is done."""

    def __init__(self, folder: Path) -> None:
        self.host, self.configs = crowd(64, 64, 64)
        self.folder = folder
        self.journal = Journal(folder)

    def sweep(self, times: int, *, is_killed: Callable[[], bool] = lambda: False) -> list[int]:
        """Sweep, record, send; return how many commands each step had. Killed: recorded and not sent."""
        counts = []
        for _ in range(times):
            self.host.now_ns += NS_PER_S
            result = self.host.manager.step(self.host.facts())
            counts.append(len(result.commands))
            rows = [Intent(each.vm, f"{each.vm}.1", each.target_bytes, "", "") for each in result.commands]
            ids = self.journal.intend(rows, self.host.now_ns)
            if is_killed():
                return counts
            for each in result.commands:
                self.host.manager.was_sent(each.vm)
                self.host.sizes[each.vm] = each.target_bytes
            self.journal.conclude([(each, SENT) for each in ids], self.host.now_ns)
        return counts

    def kill(self) -> None:
        """End the manager with all that it knew, and start another on the same journal."""
        self.journal.close()
        self.host.manager = Manager(HOST, self.configs, CALM)
        self.journal = Journal(self.folder)
        take_over(self.journal, self.host.manager, {config.name for config in self.configs})

    def books(self) -> dict[str, object]:
        gmm = self.host.manager.claims.gmm.verify()
        return {
            name: msgspec.structs.replace(vm, req_actually_ballooned_pages=0)
            for name in sorted(gmm)
            if (vm := gmm.query_statistics(name).vm) is not None
        }


def test_the_books_of_a_killed_manager_come_back_equal_before_anything_is_sent(tmp_path: Path) -> None:
    run = Journalled(tmp_path)
    run.host.demands = {"web": 300 * MIB, "db": 200 * MIB, "batch": 100 * MIB}
    assert sum(run.sweep(12)) > 0
    assert run.sweep(3) == [0, 0, 0]
    before = run.books()
    run.kill()
    assert run.books() == {}
    assert run.sweep(1) == [0]
    assert run.sweep(4) == [0] * 4
    assert run.books() == before
    run.journal.close()


def test_a_manager_that_was_killed_between_record_and_command_adopts_before_it_writes(tmp_path: Path) -> None:
    run = Journalled(tmp_path)
    run.host.demands = {"web": 300 * MIB, "db": 200 * MIB, "batch": 100 * MIB}
    run.sweep(10)
    run.host.demands["batch"] = 450 * MIB
    counts = run.sweep(20, is_killed=lambda: True)
    assert counts[-1] > 0
    assert run.journal.open_actions()
    sizes = dict(run.host.sizes)
    run.kill()
    assert run.sweep(1) == [0]  # one sweep proves nothing
    assert run.host.sizes == sizes
    run.sweep(12)
    assert run.host.sizes["batch"] >= 450 * MIB
    assert sum(run.host.sizes.values()) <= HOST.budget_bytes
    run.books()
    run.journal.close()


def test_a_size_that_moves_after_a_restart_is_adopted_only_when_two_sweeps_agree(tmp_path: Path) -> None:
    run = Journalled(tmp_path)
    run.host.demands = {"web": 300 * MIB, "db": 200 * MIB, "batch": 100 * MIB}
    run.sweep(10)
    run.kill()
    run.host.demands["web"] = 600 * MIB
    for size in (400, 420, 440):
        run.host.sizes["web"] = size * MIB
        run.host.now_ns += NS_PER_S
        sent = commands(run.host.manager, run.host)
        assert "web" not in [each.vm for each in sent]
    run.sweep(6)
    assert run.host.sizes["web"] >= 600 * MIB
    run.journal.close()


# -- what it costs ------------------------------------------------------------------------------------------

# What a quiet step asks of the books for each VM. It was 13 before they had anything but the claims.
CALLS_PER_VM = 10


def calls_of_a_quiet_step(vms: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    configs = [VmConfig(f"vm{number}", 64 * MIB, 128 * MIB) for number in range(vms)]
    settings = ManagerSettings(vms * 128 * MIB, 0, NS_PER_S, "enforce")
    host = ObedientHost(settings, configs, {config.name: 100 * MIB for config in configs}, safeguards=CALM)
    host.sweep(5)
    counts: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def count(*arguments: object, **named: object) -> object:
            counts[name] += 1
            return call(*arguments, **named)

        return count

    with monkeypatch.context() as patch:
        for name in dir(CountedBooks):
            call = getattr(CountedBooks, name)
            if callable(call) and (not name.startswith("_") or name == "__contains__"):
                patch.setattr(CountedBooks, name, counted(name, call))
        host.sweep()
    return counts


def test_a_quiet_step_asks_the_books_no_more_for_each_vm_than_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = calls_of_a_quiet_step(10, monkeypatch), calls_of_a_quiet_step(1000, monkeypatch)
    assert 1000 < many.total() <= CALLS_PER_VM * 1000
    assert many.total() - few.total() <= CALLS_PER_VM * 990
    assert set(many) <= {"__contains__", "allocated", "figures", "may_not_allocate_why"}  # nothing is changed
