"""Databases that are published with audb: fetched once into its cache, then read as audformat."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sertune.corpora import audformat as database_format
from sertune.corpora.info import CorpusInfo
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError
from sertune.files import unwritable
from sertune.progress import say

INFO: Final = CorpusInfo(
    name="audb",
    title="any database published with audb, e.g. audb:emodb@1.4.1 (audEERING)",
    language="",
    speakers=0,
    hours=0.0,
    labels=(),
    licence="that of the database",
    where="the repositories that audb is set up for; what is in audb's cache needs no network",
    layout="no folder: the name of a database, and @VERSION",
    kind="format",
)


def read(source: str, columns: Mapping[str, str] | None = None, *, strict: bool = True) -> Manifest:
    """Read a database by its name, from audb's cache or after audb fetched it.

    Args:
        source: NAME or NAME@VERSION. Without a version the latest one; without a network the latest in the cache.
        columns: as for `sertune.corpora.audformat.read`.
        strict: as there.

    Raises:
        SertuneError: audb is not installed, there is no such database or it can't be fetched, or it has no emotions.
    """
    name, _, version = source.partition("@")
    library = _library()
    with database_format.quiet():
        chosen = version or _latest(library, name)
        try:
            # Relative names, so that an utterance's id is the same on every machine.
            database = library.load(name, version=chosen, full_path=False, verbose=sys.stderr.isatty())
        except OSError as error:
            raise unwritable(Path(library.default_cache_root()), error) from error
        except Exception as error:  # those of every kind of repository
            raise SertuneError(
                f"audb:{name}@{chosen}: can't be fetched ({' '.join(str(error).split())}); cached versions: "
                f"{', '.join(_cached(library, name)) or 'none'}"
            ) from error
    if database is None:
        raise SertuneError(
            f"audb:{name}@{chosen}: another process is fetching it; run the command again when it is done"
        )
    return database_format.from_database(database, Path(database.root), columns or {}, strict=strict)


def _library() -> Any:
    try:
        import audb
    except ImportError as error:
        raise SertuneError("databases of audb need the library audb: pip install 'sertune[audb]'") from error
    return audb


def _latest(library: Any, name: str) -> str:
    """The latest version, or, where no repository answers, the latest in the cache."""
    try:
        return str(library.latest_version(name))
    except Exception as error:  # those of every kind of repository
        cached = _cached(library, name)
        if not cached:
            raise SertuneError(
                f"audb:{name}: no repository that audb knows has it, or none can be reached, and it is not in audb's "
                f"cache {library.default_cache_root()}; check the name and the network, or fetch it elsewhere"
            ) from error
        say(f"audb:{name}: no repository has it or can be reached; taking version {cached[-1]} from the cache")
        return cached[-1]


def _cached(library: Any, name: str) -> list[str]:
    """Versions in the cache, the latest last."""
    known = library.cached(name=name)
    found = {str(version) for version in known["version"]} if len(known) else set()
    return sorted(found, key=lambda text: [int(part) if part.isdigit() else -1 for part in text.split(".")])


def example(root: Path, seed: int = 0) -> None:
    """Write a repository, ``root/repository``, with version 1.0.0 of the database ``imitation``.

    Its content is that of `sertune.corpora.audformat.example`. audb finds it once its ``config.REPOSITORIES`` has
    ``audb.Repository("repository", root, "file-system")``.
    """
    library = _library()
    (root / "repository").mkdir(parents=True, exist_ok=True)
    database_format.example(root / "source", seed)
    repository = library.Repository("repository", str(root), "file-system")
    with database_format.quiet():
        library.publish(
            str(root / "source"),
            "1.0.0",
            repository,
            previous_version=None,
            cache_root=str(root / "cache"),
            verbose=False,
        )
