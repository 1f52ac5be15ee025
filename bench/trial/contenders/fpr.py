"""Free page reporting alone: guests return free memory by themselves, and nobody orders anything.

The device's property is `free-page-reporting=on`. Linux reports free blocks of 2 MiB about two seconds after
they became free. Page cache is not free memory, and nothing bounds what a guest takes.
"""

from bench.trial.contenders.contender import Silent


class FreePageReporting(Silent):
    """Orders nothing; the device does it."""

    name = "fpr"
    free_page_reporting = True
