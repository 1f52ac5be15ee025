"""How `make docs` builds the site: the Markdown of the repository as it is, and the packages' public names.

The source folder is the whole checkout, so that a link in a page works in the site as well as where the code
is hosted.
"""

import enum
import shutil
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx
from sphinx.ext import napoleon

import dynmem

project = "dynmem"
author = copyright = "The dynmem authors"  # noqa: A001 - Sphinx reads this name
release = version = dynmem.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/**"]
exclude_patterns = [".*", "bench", "build", "examples", "scripts", "src", "tests"]

html_theme = "furo"
html_title = f"dynmem {release}"
html_copy_source = False
myst_heading_anchors = 3

autodoc_member_order = "bysource"  # of a package: the order of its __all__
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "py:obj"  # a name in single backquotes is a link where it is public, and code elsewhere

nitpicky = True  # a signature of a public name may mention only public names
nitpick_ignore_regex = [
    ("py:class", r"(asyncio|collections|msgspec|numpy|pathlib|socket|uuid)\..*"),
    (
        "py:class",
        r"dynmem\.vmbus\..*\.(\w+Snapshot|ChannelEvent|Connection|Driver|PageRuns)",
    ),  # made and read by the ends themselves
    ("py:class", r"dynmem\.qmp\.batch\.Batch"),  # made and taken by the client itself
    ("py:class", r"tuple\[.*"),  # Sphinx cuts a tuple of any length at its dots
    ("py:obj", r"(\w+\.)?[a-z_0-9-]+|[A-Z_0-9]+"),  # a parameter, a field, a QMP command, a constant
    ("py:obj", r"(id|HC|GC|f|c)[A-Z]\w+"),  # a field of VirtualBox's structures
]

GOOGLE_STYLE: Final = napoleon.Config(napoleon_use_ivar=True)
CONTENTS: Final = """

```{toctree}
:hidden:
:caption: The programs

docs/which-knob
docs/proxmox
docs/libvirt
docs/coming-from
docs/config
docs/scan
docs/balloon
docs/demand
docs/duplicates
docs/status
docs/top
docs/web
docs/fit
docs/socket
docs/metrics
docs/recording
docs/runbooks
docs/service
docs/fleet
docs/release
docs/history
docs/history-fields
docs/simulate
docs/simulate-fields
docs/honesty
docs/kvm
docs/windows
docs/performance
docs/trial
SECURITY
CHANGELOG
```

```{toctree}
:hidden:
:caption: The library

docs/library
docs/api/index
docs/protocol
docs/conformance
```

```{toctree}
:hidden:
:caption: The code

docs/architecture
CONTRIBUTING
docs/style
```
"""


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the table of contents to the front page: the README itself has none."""
    if page == app.config.root_doc:
        source[0] += CONTENTS


def read_google_style(
    app: Sphinx, kind: str, name: str, member: object, options: object, lines: list[str]
) -> None:
    """Turn `Args:` and `Attributes:` into fields, but take no colon in a property's sentence for its type."""
    if kind != "property":
        lines[:] = napoleon.GoogleDocstring(lines, GOOGLE_STYLE, app, kind, name, member, options).lines()


def is_noise(app: Sphinx, kind: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Skip the fields of named tuples: the class says what they are. Keep the members of enumerations."""
    del app, kind, name, skip, options
    if isinstance(member, enum.Enum):
        return False
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def without_noise(
    app: Sphinx, kind: str, name: str, member: object, options: object, arguments: str, result: str
) -> tuple[str, str] | None:
    """Leave out the arguments of a protocol: it is not called."""
    del app, name, member, options
    return ("", result) if kind == "class" and arguments == "(*args, **kwargs)" else None


def add_index(app: Sphinx, failure: Exception | None) -> None:
    """Let the site begin at index.html, too."""
    if failure is None:
        shutil.copyfile(Path(app.outdir, f"{app.config.root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", read_google_style)
    app.connect("autodoc-skip-member", is_noise)
    app.connect("autodoc-process-signature", without_noise)
    app.connect("build-finished", add_index)
