"""What a guest asks of its host about GPADLs: to make one, of a header and bodies, and to release it."""

from dynmem import trace_events
from dynmem.trace_events import Trace
from dynmem.vmbus.channels import Channels
from dynmem.vmbus.gpadl import GpadlTable, RefusedGpadlError
from dynmem.vmbus.mailbox import Mailbox
from dynmem.vmbus.rejection import Rejection, Rejections
from dynmem.wire import vmbus as wire
from dynmem.wire.status import STATUS_SUCCESS, STATUS_UNSUCCESSFUL


class GpadlRequests:
    """Carries them out on one bus."""

    def __init__(
        self,
        table: GpadlTable,
        channels: Channels,
        mailbox: Mailbox,
        rejections: Rejections,
        *,
        trace: Trace,
    ) -> None:
        self._table = table
        self._channels = channels
        self._mailbox = mailbox
        self._rejections = rejections
        self._trace = trace

    def header(self, message: wire.GpadlHeader) -> None:
        """Begin a GPADL; an impossible one gets its reply at once."""
        known = self._channels.get(message.child_relid) is not None
        try:
            gpadl = self._table.begin(message, channel_is_known=known)
        except RefusedGpadlError as error:
            self._rejections.add(error.cause)
            self._created(message.child_relid, message.gpadl, STATUS_UNSUCCESSFUL)
            return
        if gpadl.complete:
            self._created(gpadl.relid, gpadl.gpadl_id, STATUS_SUCCESS)

    def body(self, message: wire.GpadlBody) -> None:
        """Take more pages of a GPADL; the reply follows the last."""
        gpadl = self._table.get(message.gpadl)
        if gpadl is None or gpadl.complete:
            self._rejections.add(Rejection.STRAY_GPADL_BODY)
            return
        gpadl.add(message.pfns)
        if gpadl.complete:
            self._created(gpadl.relid, gpadl.gpadl_id, STATUS_SUCCESS)

    def teardown(self, message: wire.GpadlTeardown) -> None:
        """Reply even when there is no such GPADL: the host certainly does not use its pages."""
        gpadl = self._table.get(message.gpadl)
        if gpadl is None:
            self._rejections.add(Rejection.TEARDOWN_OF_UNKNOWN_GPADL)
        elif gpadl.relid != message.child_relid:
            self._rejections.add(Rejection.TEARDOWN_OF_OTHERS_GPADL)
            return
        else:
            channel = self._channels.get(gpadl.relid)
            if channel is not None and channel.is_open and channel.gpadl_id == gpadl.gpadl_id:
                channel.break_off("the guest tore down the rings of an open channel")
            self._table.remove(gpadl)
        self._trace(trace_events.VMBUS_GPADL_TORNDOWN, message.gpadl)
        self._mailbox.post(wire.GpadlTorndown(message.gpadl))

    def _created(self, relid: int, gpadl_id: int, status: int) -> None:
        if status == STATUS_SUCCESS:
            self._trace(trace_events.VMBUS_GPADL_CREATED, gpadl_id)
        self._mailbox.post(wire.GpadlCreated(relid, gpadl_id, status))
