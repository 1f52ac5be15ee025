"""Fetches packages of another Debian release by apt with separate state; this machine's state is unchanged.

The other release comes from the source that apt uses on this machine. apt verifies what it fetches as always:
the index by the archive's signature, each package by the index.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError, DynmemError
from dynmem.lab import packages

_ARCHITECTURE: Final = "amd64"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_OS_RELEASE: Final = Path("/etc/os-release")
_CONFIGURATION: Final = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/suite.sources";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "-";
"""


@contextmanager
def downloaded(suite: str, wanted: Sequence[str]) -> Iterator[list[Path]]:
    """Yield the files of the packages `wanted` and their dependencies in `suite`; delete them afterwards.

    Raises ConfigError if apt does not name a source, DynmemError when fetching fails.
    """
    with tempfile.TemporaryDirectory(prefix="dynmem-suite-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt fetches as another user, who needs access
        apt = _prepare(folder)
        _fetch_index(apt, folder, suite)
        packages.check(
            packages.run(
                [*apt, "install", "-y", "-qq", "--no-install-recommends", "--download-only", *wanted]
            ),
            f"fetching {' '.join(wanted)} of {suite}",
        )
        yield sorted((folder / "cache/archives").glob("*.deb"))


def _prepare(folder: Path) -> list[str]:
    """Make folders and configuration for an apt that sees nothing installed, so it fetches every library."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "state/status").touch()
    (folder / "apt.conf").write_text(_CONFIGURATION.format(architecture=_ARCHITECTURE, folder=folder))
    return ["apt-get", "-c", str(folder / "apt.conf")]


def _fetch_index(apt: list[str], folder: Path, suite: str) -> None:
    """Fetch the suite's index from the first of this machine's sources that has it."""
    places = archives()
    for number, place in enumerate(places, start=1):
        (folder / "suite.sources").write_text(_source(place, suite))
        result = packages.run([*apt, "update", "-qq"])
        if result.returncode == 0 or number == len(places):
            packages.check(result, f"fetching the package index of {suite}")
            return


def archives() -> list[str]:
    """Return the sources from which apt on this machine gets packages of its own release."""
    codename = own_codename()
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    result = packages.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", form, "Created-By: Packages"]
    )
    packages.check(result, "asking apt for its sources")
    rows = [line.split(" ", 2) for line in result.stdout.splitlines()]
    found = [row[2] for row in rows if row[:2] == [codename, "main"]]
    if not found:
        raise ConfigError("apt on this machine has no Debian source to fetch from: add one")
    return list(dict.fromkeys(found))


def own_codename() -> str:
    """Return the release of Debian that this machine runs."""
    lines = _OS_RELEASE.read_text().splitlines() if _OS_RELEASE.exists() else []
    names = [line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")]
    if not names:
        raise DynmemError(f"{_OS_RELEASE} does not name the Debian release of this machine")
    return names[0]


def _source(place: str, suite: str) -> str:
    """Return one entry for apt, trusting only the archive's own keys if this machine has them separately."""
    lines = ["Types: deb", f"URIs: {place}", f"Suites: {suite}", "Components: main"]
    lines += [f"Architectures: {_ARCHITECTURE}"]
    if _KEYRING.exists():
        lines.append(f"Signed-By: {_KEYRING}")
    return "\n".join(lines) + "\n"
