"""What clients ask of the manager becomes part of its history: who wants what, and what was refused."""

import msgspec

from dynmem.errors import RefusedError
from dynmem.history.recorder import Recorder
from dynmem.manager.api.messages import READS, Reply, Request, vm_of
from dynmem.manager.api.service import Service


class Asked(msgspec.Struct, frozen=True):
    """Stands between the socket and the service."""

    service: Service
    history: Recorder

    async def handle(self, request: Request) -> Reply:
        """Carry out a client's request, and record it."""
        if isinstance(request, READS):
            return await self.service.handle(request)
        vm = vm_of(request)
        try:
            reply = await self.service.handle(request)
        except RefusedError as error:
            self.history.happened("refused", str(error), vm)
            raise
        self.history.happened("request", msgspec.json.encode(request).decode(), vm)
        return reply
