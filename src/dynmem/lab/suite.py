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


class Suite:
    """Another release, as an apt with its own state sees it. Files go into a temporary folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._configuration = ["-c", str(folder / "apt.conf")]

    def with_dependencies(self, wanted: Sequence[str]) -> list[Path]:
        """Fetch the packages `wanted` and everything they depend on; return their files."""
        before = self._files()
        options = ["-y", "-qq", "--no-install-recommends", "--download-only"]
        self._get(["install", *options, *wanted], wanted, self._folder)
        return sorted(self._files() - before)

    def alone(self, wanted: Sequence[str]) -> list[Path]:
        """Fetch the packages `wanted` without what they depend on; return their files."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        folder.chmod(0o755)
        self._get(["download", "-qq", *wanted], wanted, folder)
        return sorted(folder.glob("*.deb"))

    def newest(self, package: str, prefix: str) -> str:
        """Return the package beginning with `prefix` that `package`, which names the newest, depends on."""
        result = packages.run(["apt-cache", *self._configuration, "depends", package])
        words = [line.split()[-1] for line in result.stdout.splitlines() if "Depends:" in line]
        found = next((word for word in words if word.startswith(prefix)), None)
        if found is None:
            raise DynmemError(f"{package} of {self._name} names no {prefix}* package")
        return found

    def fetch_index(self) -> None:
        """Fetch the index from the first of this machine's sources that has it."""
        places = archives()
        for number, place in enumerate(places, start=1):
            (self._folder / "suite.sources").write_text(_source(place, self._name))
            result = packages.run(["apt-get", *self._configuration, "update", "-qq"])
            if result.returncode == 0 or number == len(places):
                packages.check(result, f"fetching the package index of {self._name}")
                return

    def _get(self, arguments: list[str], wanted: Sequence[str], folder: Path) -> None:
        result = packages.run(["apt-get", *self._configuration, *arguments], folder=folder)
        packages.check(result, f"fetching {' '.join(wanted)} of {self._name}")

    def _files(self) -> set[Path]:
        return set((self._folder / "cache/archives").glob("*.deb"))


@contextmanager
def opened(name: str) -> Iterator[Suite]:
    """Yield the release `name`, its index fetched; delete everything that it fetched afterwards.

    Raises ConfigError if apt does not name a source, DynmemError when fetching fails.
    """
    with tempfile.TemporaryDirectory(prefix="dynmem-suite-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # apt fetches as another user, who needs access
        _prepare(folder)
        suite = Suite(name, folder)
        suite.fetch_index()
        yield suite


@contextmanager
def downloaded(name: str, wanted: Sequence[str]) -> Iterator[list[Path]]:
    """Yield the files of the packages `wanted` and their dependencies; delete them afterwards.

    Raises what `opened` does.
    """
    with opened(name) as suite:
        yield suite.with_dependencies(wanted)


def _prepare(folder: Path) -> None:
    """Make folders and configuration for an apt that sees nothing installed, so it fetches every library."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "state/status").touch()
    (folder / "apt.conf").write_text(_CONFIGURATION.format(architecture=_ARCHITECTURE, folder=folder))


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
