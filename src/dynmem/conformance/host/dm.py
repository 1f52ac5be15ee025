"""Cases against a host's end of the Dynamic Memory Protocol, played by a good guest."""

from functools import partial
from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import DM, HostUnderTest
from dynmem.conformance.case import Case, CaseTable, NotApplicableError, must
from dynmem.conformance.host.played_guest import PlayedGuest, settle_ns
from dynmem.units import NS_PER_MS, NS_PER_S
from dynmem.wire import vmbus as wire

TABLE: Final = CaseTable()

WINDOWS_PAGES_MAX: Final = 585_728  # Windows ignores requests for more


def _version(version: int, host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start(version=version)
    guest.balloon(100)
    guest.return_all()


for _name, _number in (("2.0", dm.DM_2_0), ("1.0", dm.DM_1_0), ("0.3", dm.DM_0_3)):
    TABLE.add(
        Case(
            f"version-{_name}",
            DM,
            f"Version {_name} is accepted, and pages are ballooned and returned with it.",
            "dynmem-proto.h, DYNMEM_PROTOCOL_VERSION_*",
            partial(_version, _number),
        )
    )


@TABLE.case(
    "version-refused-then-lower",
    DM,
    "A version above 2.0 is rejected with is_accepted 0, and the guest may request another.",
    "dynmem-proto.h, dm_version_request: the guest sends requests until the host accepts",
)
def _refused(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    must(not guest.negotiate(0x0003_0000), "version 3.0 is accepted")
    must(not guest.negotiate(0x0000_0002), "version 0.2 is accepted")
    must(guest.negotiate(dm.DM_0_3, last=True), "version 0.3 is rejected after two others")
    guest.capabilities(dm.CAP_BALLOON)


@TABLE.case(
    "messages-of-the-version",
    DM,
    "A guest of version 0.3 gets no DM_INFO_MESSAGE, which exists since 1.0; for later ones it is sound.",
    "dynmem-proto.h, dm_message_type: 0.3 up to 11, 1.0 up to 12, 2.0 up to 14",
)
def _messages_of_version(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start(version=dm.DM_0_3)
    guest.balloon(100)
    guest.return_all()
    host.advance(settle_ns(host))
    guest.silent("unasked")
    must(not guest.infos, f"information came, which version 0.3 does not know: {guest.infos}")
    guest.close()
    guest.open(first=100)
    guest.restart()
    guest.silent("with nothing to return")
    for kind, data in guest.infos:
        largest = int.from_bytes(data, "little")
        must(kind or largest >= host.boot_pages, f"its largest size is said to be {largest} pages")


@TABLE.case(
    "version-last-refused",
    DM,
    "After its last attempt was rejected, a guest gets no request.",
    "dynmem-proto.h, is_last_attempt: the service does not come up",
)
def _last_refused(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    must(not guest.negotiate(0x0003_0000, last=True), "version 3.0 is accepted")
    host.set_target(host.boot_pages - 1000)
    host.advance(settle_ns(host))
    guest.silent("to a guest without a version")


@TABLE.case(
    "not-asked-during-handshake",
    DM,
    "A target set before or during the handshake causes no request until the handshake is over.",
    "QEMU hw/hyperv/hv-balloon.c: requests start from S_IDLE only",
)
def _early_target(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    host.set_target(host.boot_pages - 1000)
    guest.connect()
    guest.open()
    guest.silent("before a version was requested")
    host.advance(settle_ns(host))
    guest.silent("before a version was requested")
    guest.negotiate()
    host.advance(settle_ns(host))
    guest.silent("before the capabilities came")


@TABLE.case(
    "not-asked-before-post-init-wait",
    DM,
    "From the handshake to the end of the post-init wait there is no request; then the target is pursued.",
    "QEMU hv-balloon.c, HV_BALLOON_POST_INIT_WAIT: Windows Server 2019 crashes when asked too early",
)
def _post_init_wait(host: HostUnderTest) -> None:
    if not host.post_init_wait_ns:
        raise NotApplicableError("the host does not promise a wait")
    guest = PlayedGuest(host)
    host.set_target(host.boot_pages - 1000)
    guest.connect()
    guest.open()
    guest.negotiate()
    guest.capabilities(dm.CAP_BALLOON)
    guest.silent("at once after the handshake")
    host.advance(host.post_init_wait_ns - NS_PER_MS)
    host.set_target(host.boot_pages - 1001)
    guest.silent("a millisecond before the wait ends")
    host.advance(NS_PER_MS)
    must(guest.asked() == 1001, "the first request is not for the last target")


@TABLE.case(
    "no-balloon-capability",
    DM,
    "A guest without the balloon capability gets no balloon request.",
    "dynmem-proto.h, dm_caps; QEMU hv-balloon.c, hv_balloon_idle_state_process_target",
)
def _no_balloon(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start(caps=0)
    host.set_target(host.boot_pages - 1000)
    host.advance(NS_PER_S)
    guest.silent("to a guest that cannot balloon")


@TABLE.case(
    "least-pages",
    DM,
    "No request goes below the min_page_cnt of the guest's capabilities.",
    "dynmem-proto.h, dm_capabilities.min_page_cnt",
)
def _least(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start(least=host.boot_pages - 300)
    host.set_target(host.boot_pages - 1000)
    must(guest.asked() <= 300, "the host requests more than the guest can spare")
    guest.give([guest.free_span(300)])
    guest.silent("at the guest's least size")


@TABLE.case(
    "request-size",
    DM,
    "No request is for more than 585,728 pages; the rest follows after the response.",
    "QEMU hv-balloon.c, HV_BALLOON_HR_CHUNK_PAGES: Windows ignores larger requests",
)
def _request_size(host: HostUnderTest) -> None:
    if host.boot_pages < WINDOWS_PAGES_MAX + 100_000:
        raise NotApplicableError("the guest is smaller than such a request")
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - WINDOWS_PAGES_MAX - 10)
    first = guest.asked()
    must(first <= WINDOWS_PAGES_MAX, f"{first} pages are requested at once")
    guest.silent("while a request is unanswered")
    guest.send(dm.balloon_response(guest.next_id(), [(0x2000, first)]))
    must(guest.asked() == WINDOWS_PAGES_MAX + 10 - first, "the rest is not requested")


@TABLE.case(
    "balloon-partial",
    DM,
    "If a guest gives fewer pages than requested, those count, and an empty response ends the operation.",
    "Linux hv_balloon.c, balloon_up: the floor; QEMU hv-balloon.c: range_count 0 ends it",
)
def _partial(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 1000)
    must(guest.asked() == 1000, "the first request is not for 1000 pages")
    guest.give([guest.free_span(400)])
    for request in guest.packets():
        must(dm.fields(request, dm.BALLOON_REQUEST, "<II")[0] <= 600, "more than the rest is requested")
        guest.give([])
    host.advance(NS_PER_S)
    guest.silent("after a response with no ranges")
    guest.actual(host.boot_pages - 400)
    guest.return_all()


@TABLE.case(
    "balloon-more-pages",
    DM,
    "After several responses to one request, the next request comes only after the one with more_pages 0.",
    "Linux hv_balloon.c, balloon_up: 510 ranges to a response; dynmem-proto.h, more_pages",
)
def _more(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 3000)
    guest.asked()
    for number in range(3):
        guest.give([guest.free_span(2) for _ in range(500)], more=number < 2)
        if number < 2:
            guest.silent("between two responses to one request")
            host.set_target(host.boot_pages - 3000)
            guest.silent("between two responses, with a target set")
    guest.silent("after the last response")
    guest.actual(host.boot_pages - 3000)
    guest.return_all()


@TABLE.case(
    "status-during-balloon",
    DM,
    "Status reports between the responses to a request change nothing.",
    "Linux hv_balloon.c, balloon_up posts its status while it waits for memory",
)
def _status_between(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 200)
    guest.asked()
    guest.give([guest.free_span(100)], more=True)
    guest.send(dm.status_report(guest.next_id(), 10_000, 20_000))
    guest.give([guest.free_span(100)])
    guest.send(dm.status_report(guest.next_id(), 10_000, 20_000))
    guest.silent("after the last response")
    guest.actual(host.boot_pages - 200)


@TABLE.case(
    "guests-count-their-own-ids",
    DM,
    "Responses carry transaction ids of the guest's own, which need not be those of the requests.",
    "Linux hv_balloon.c: every message takes atomic_inc_return(&trans_id)",
)
def _own_ids(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.trans_id = 0x7FFF_0000
    guest.balloon(64)
    guest.trans_id = 5
    guest.balloon(64)
    guest.actual(host.boot_pages - 128)
    guest.return_all()
    guest.actual(host.boot_pages)


@TABLE.case(
    "duplicates-counted-once",
    DM,
    "A page that is given up twice counts once and is returned once.",
    "QEMU hv-balloon.c: the page range trees count duplicates",
)
def _duplicates(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 300)
    must(guest.asked() == 300, "the request is not for 300 pages")
    start, _ = guest.free_span(200)
    guest.give([(start, 100), (start + 50, 100), (start, 100)])
    guest.actual(host.boot_pages - 150)
    for _ in guest.packets():
        guest.give([])
    guest.return_all()
    guest.actual(host.boot_pages)


@TABLE.case(
    "unballoon-part",
    DM,
    "A target between the guest's size and its boot size returns exactly the difference.",
    "QEMU hv-balloon.c, unballoon_diff = min(diff, removed)",
)
def _part(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(1000)
    host.set_target(host.boot_pages - 400)
    must(len(guest.get_back()) == 600, "not exactly 600 pages are returned")
    guest.silent("at the target")
    guest.actual(host.boot_pages - 400)
    host.set_target(2 * host.boot_pages)
    must(len(guest.get_back()) == 400, "not everything that is left is returned")


@TABLE.case(
    "unballoon-one-at-a-time",
    DM,
    "While an unballoon transaction has no response, there is no other request, whatever the target.",
    "QEMU hv-balloon.c: S_UNBALLOON_REPLY_WAIT",
)
def _one_at_a_time(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(500)
    host.set_target(host.boot_pages)
    requests = guest.packets()
    must(requests and not dm.read_gift(requests[-1]).more, "the transaction is incomplete")
    got = [page for request in requests for page in dm.pages_in(dm.read_gift(request).spans)]
    must(sorted(got) == sorted(guest.given), "pages are returned that were not given")
    guest.given.clear()
    host.set_target(host.boot_pages - 800)
    guest.silent("before the response to an unballoon transaction")
    guest.send(dm.unballoon_response(guest.next_id()))
    must(guest.asked() == 800, "the target set meanwhile is not pursued afterwards")


@TABLE.case(
    "same-target-tries-again",
    DM,
    "Setting the same target again makes a new request.",
    "QEMU hv-balloon.c: every balloon command sets target_changed",
)
def _again(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    for _ in range(2):
        host.set_target(host.boot_pages - 1000)
        guest.asked()
        guest.give([])
        guest.silent("after a response with no ranges")


@TABLE.case(
    "late-answer",
    DM,
    "A silent guest gets no new request, however long it takes, and its late response counts in full.",
    "responses carry the guest's own ids and cannot be matched to an abandoned request",
)
def _late(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 100)
    guest.asked()
    for _ in range(3):
        host.advance(settle_ns(host))
        host.set_target(host.boot_pages - 200)
        guest.silent("to a guest that owes a response")
    guest.give([guest.free_span(100)])
    guest.actual(host.boot_pages - 100)
    must(guest.asked() == 100, "the rest is not requested after the late response")
    guest.give([guest.free_span(100)])
    guest.return_all()


@TABLE.case(
    "close-keeps-pages",
    DM,
    "Pages in the balloon stay there while the guest closes and reopens the channel, and are returned then.",
    "Linux hv_balloon.c, balloon_suspend: ballooned pages are kept over hibernation",
)
def _close_keeps(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(700)
    guest.close()
    guest.open(first=100)
    guest.restart()
    for _ in guest.packets():  # the old target may be pursued at once
        guest.give([])
    guest.actual(host.boot_pages - 700)
    guest.return_all()


@TABLE.case(
    "close-in-mid-transaction",
    DM,
    "After a channel is closed between two responses, received pages count and the next session is sound.",
    "Linux hv_balloon.c, balloon_remove",
)
def _close_between(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 200)
    guest.asked()
    guest.give([guest.free_span(120)], more=True)
    guest.packets()
    guest.close()
    guest.open(first=100)
    guest.restart()
    for _ in guest.packets():
        guest.give([])
    guest.actual(host.boot_pages - 120)
    guest.return_all()


@TABLE.case(
    "reset-returns-everything",
    DM,
    "After a reset the guest owns all its memory: none of the pages given before is returned.",
    "QEMU hv-balloon.c, hv_balloon_reset_unrealize; Linux frees what it is given, unchecked",
)
def _reset(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(600)
    host.reset()
    guest = PlayedGuest(host).start_with_target()
    guest.actual(host.boot_pages)
    guest.return_all()


@TABLE.case(
    "reset-ends-the-target",
    DM,
    "After a reset the guest stays at its boot size until a target is set.",
    "QEMU's hv-balloon documentation: after a reboot the guest is back at its boot size",
)
def _reset_ends(host: HostUnderTest) -> None:
    PlayedGuest(host).start().balloon(600)
    host.reset()
    guest = PlayedGuest(host).start()
    host.advance(settle_ns(host))
    guest.silent("after a reset, with no target set since")
    guest.actual(host.boot_pages)
    guest.balloon(200)
    guest.return_all()


@TABLE.case(
    "new-contact-is-another-guest",
    DM,
    "A guest that unloads VMBus and makes contact again, as after a kexec, gets no page given before that.",
    "QEMU hv-balloon.c, hv_balloon_vmdev_reset; Linux frees what it is given, unchecked",
)
def _new_contact(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(600)
    guest.close()
    guest.ask(wire.Unload())
    guest = PlayedGuest(host).start_with_target()
    guest.return_all()
    guest.actual(host.boot_pages)
