"""What a cache folder holds, whether it is sound, making room in it, and filling it ahead of training."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sertune.config import CacheConfig, RunConfig
from sertune.errors import SertuneError
from sertune.progress import progress
from sertune.train.cache import (
    GIB,
    VARIABLE,
    DamagedError,
    Shard,
    cache_folder,
    check_format,
    folder_bytes,
    key_of,
    open_shard,
    set_folders,
    shard_files,
)
from sertune.train.states import States

DAY = 86400


@dataclass(frozen=True)
class SetInfo:
    """One set of a cache.

    Attributes:
        folder: its name is the set's id.
        key: what its numbers depend on, and the encoder's name; empty where that can't be read.
        used: when a run last opened it, in seconds since 1970.
        nbytes: its size on disk.
    """

    folder: Path
    key: dict[str, Any]
    used: float
    nbytes: int

    @property
    def id(self) -> str:
        """16 hex digits."""
        return self.folder.name

    @property
    def clips(self) -> int:
        """How many clips (and views of clips) it has, without looking at damaged shards."""
        names: set[str] = set()
        for _, shard in _shards(self):
            names |= shard.places.keys() if isinstance(shard, Shard) else set()
        return len(names)

    def row(self) -> dict[str, Any]:
        """What `sertune cache ls` shows of it."""
        shown = {name: self.key.get(name) for name in ("encoder", "layer", "precision", "dtype")}
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.used))
        return {"id": self.id, **shown, "clips": self.clips, "mib": round(self.nbytes / 2**20, 1), "last_used": used}


def find_cache(folder: str = "") -> Path:
    """The cache folder that is named, or else the environment's.

    Raises:
        SertuneError: none is named, there is none, or it is no cache that this sertune reads.
    """
    found = cache_folder(CacheConfig(folder=folder))
    if found is None:
        raise SertuneError(f"no cache: say where it is with --folder FOLDER or the environment variable {VARIABLE}")
    if not found.exists():
        raise SertuneError(
            f"cache {found}: no such folder; sertune cache build or sertune train --cache.folder make it"
        )
    check_format(found)
    return found


def list_sets(folder: Path) -> list[SetInfo]:
    """All sets, the last used first."""
    found = []
    for path in set_folders(folder):
        try:
            used = (path / "key.json").stat().st_mtime
        except OSError:
            used = path.stat().st_mtime
        found.append(SetInfo(path, key_of(path), used, folder_bytes(path)))
    return sorted(found, key=lambda entry: -entry.used)


def verify(folder: Path, *, repair: bool = False) -> list[tuple[Path, str]]:
    """Reads everything, and says what is damaged.

    Args:
        folder: a cache.
        repair: remove what is damaged; the next run that needs it computes it again.

    Returns:
        Damaged files (or sets) with the reason.
    """
    damaged = []
    sets = list_sets(folder)
    with progress("Reading", sum(len(shard_files(entry.folder)) for entry in sets)) as advance:
        for entry in sets:
            if not entry.key:
                damaged.append((entry.folder, "its key.json can't be read, or is not that of the set"))
                continue
            for file, shard in _shards(entry):
                advance(1)
                if not isinstance(shard, Shard):
                    damaged.append((file, shard))
                elif bad := [clip for clip in shard.places if not shard.is_sound(clip)]:
                    damaged.append((file, f"the checksum of {len(bad)} of {len(shard.places)} clips does not match"))
    for file, _ in damaged if repair else []:
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    return damaged


def prune(
    folder: Path, ids: Sequence[str] = (), *, older: float | None = None, to: float | None = None
) -> list[SetInfo]:
    """Removes sets.

    Args:
        folder: a cache.
        ids: beginnings of the sets' ids; none: all of them.
        older: of these, sets that no run opened in this many days.
        to: of these, those used longest ago, until the folder takes at most this many GiB.

    Returns:
        What was removed.

    Raises:
        SertuneError: no set with such an id.
    """
    sets = list_sets(folder)
    for wanted in ids:
        if not any(entry.id.startswith(wanted) for entry in sets):
            known = ", ".join(entry.id for entry in sets) or "none"
            raise SertuneError(f"cache {folder}: no set {wanted!r} (known: {known})")
    chosen = [entry for entry in sets if not ids or entry.id.startswith(tuple(ids))]
    if older is not None:
        chosen = [entry for entry in chosen if time.time() - entry.used > older * DAY]
    removed: list[SetInfo] = []
    for entry in reversed(chosen):
        if to is not None and folder_bytes(folder) <= to * GIB:
            break
        try:
            shutil.rmtree(entry.folder)
        except OSError as error:
            raise SertuneError(f"{entry.folder}: can't be removed ({error.strerror})") from None
        removed.append(entry)
    if not set_folders(folder):
        shutil.rmtree(folder / "files", ignore_errors=True)
    return removed


def build(config: RunConfig) -> tuple[States, float]:
    """Computes the states of a configuration and keeps them on disk.

    Returns:
        The states, and the seconds it took.

    Raises:
        SertuneError: no folder is named, or states are not kept; else as `sertune.train.prepare.prepare`.
    """
    from sertune.train.prepare import prepare

    if cache_folder(config.cache) is None:
        raise SertuneError(f"no cache: say where it goes with --cache.folder or the environment variable {VARIABLE}")
    if not config.cache.states:
        raise SertuneError("cache.states = False: no states are kept, so there is nothing to build; leave it away")
    prepared = prepare(config)
    return prepared.clips.states, prepared.states_seconds


def _shards(entry: SetInfo) -> Iterator[tuple[Path, Shard | str]]:
    """The shards of a set, or why one can't be used."""
    for file in shard_files(entry.folder):
        try:
            yield file, open_shard(file, entry.key.get("dtype", ""))
        except DamagedError as error:
            yield file, str(error)
        except OSError as error:
            yield file, error.strerror or "can't be read"


def as_table(sets: Sequence[SetInfo]) -> str:
    """The sets for a terminal."""
    rows = [entry.row() for entry in sets]
    names = ["id", "encoder", "layer", "precision", "dtype", "clips", "mib", "last_used"]
    cells = [names] + [[str(row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def as_json(sets: Sequence[SetInfo]) -> str:
    """The sets for scripts."""
    return json.dumps([entry.row() for entry in sets], indent=1, ensure_ascii=False)
