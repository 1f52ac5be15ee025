"""The contenders of the trial by name, in the order of the tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.trial.contenders.contender import Contender, Terms
from bench.trial.contenders.dynmem import Dynmem
from bench.trial.contenders.fpr import FreePageReporting
from bench.trial.contenders.mom import Mom
from bench.trial.contenders.proxmox import Proxmox
from bench.trial.contenders.static import Static
from bench.trial.contenders.unlimited import Unlimited

#: Makes a contender; the folder is for its files.
Maker = Callable[[Terms, Path], Contender]

CONTENDERS: Final[dict[str, Maker]] = {
    Unlimited.name: Unlimited,
    Static.name: Static,
    Proxmox.name: Proxmox,
    Mom.name: Mom,
    FreePageReporting.name: FreePageReporting,
    Dynmem.name: Dynmem,
}
#: The guests that every other run is held against: nothing limits them.
REFERENCE: Final = Unlimited.name
