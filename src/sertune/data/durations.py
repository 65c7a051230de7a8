"""How long audio files are, without opening each at every start.

The lengths of many files are kept in a table in the user's cache folder, one table per folder that all files of a
call have in common. A length counts as long as its file has the same size and time of change.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import mkstemp
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sertune.data.audio import header_seconds
from sertune.progress import progress

KEPT_FROM: Final = 500
"""Newly opened files from which on a table is written: fewer are opened about as fast as a table is."""

_THREADS: Final = 8
_PROBED: Final = 64
_SLOW: Final = 0.0005  # seconds per file; below, threads would only wait for each other
_COLUMNS: Final = ("file", "size", "changed", "seconds")

# Of each file its size in bytes and the time of its last change in nanoseconds.
_Stamp = tuple[int, int]


def file_seconds(files: Sequence[Path | str]) -> NDArray[np.float64]:
    """Length of each file in seconds by its header, (N,); NaN where there is no such file or no header to read.

    Files whose length is in the user's cache (``sertune/durations`` below ``XDG_CACHE_HOME`` or ``~/.cache``) and
    that have not changed since are not opened. A table that is damaged or can't be written is no error: the files
    are opened then.
    """
    paths = [os.path.abspath(file) for file in files]  # noqa: PTH100 - text is several times faster
    seconds = np.full(len(paths), np.nan)
    if len(paths) < KEPT_FROM:
        seconds[:] = _opened(paths)
        return seconds
    stamps = _stamps(paths)
    table = _table_of(paths)
    known = _load(table)
    new = []
    for i, (path, stamp) in enumerate(zip(paths, stamps, strict=True)):
        kept = known.get(path)
        if kept is not None and kept[0] == stamp:
            seconds[i] = kept[1]
        elif stamp is not None:
            new.append(i)
    if new:
        seconds[new] = _opened([paths[i] for i in new])
    read = [i for i in new if not np.isnan(seconds[i])]  # what could not be read may be readable next time
    if len(read) >= KEPT_FROM:
        known.update((paths[i], (stamp, float(seconds[i]))) for i in read if (stamp := stamps[i]) is not None)
        with suppress(OSError, ValueError):
            _save(table, known)
    return seconds


def cache_folder() -> Path:
    """The folder of this package in the user's cache; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sertune"


def _opened(paths: Sequence[str]) -> list[float]:
    """Lengths by opening each file; several at a time where that takes long, as on network disks."""
    start = perf_counter()
    result = [header_seconds(path) for path in paths[:_PROBED]]
    rest = paths[_PROBED:]
    if not rest:
        return result
    slow = (perf_counter() - start) / _PROBED > _SLOW
    chunks = [rest[i : i + _PROBED] for i in range(0, len(rest), _PROBED)]
    with progress("Reading lengths", len(paths)) as advance, ThreadPoolExecutor(_THREADS) as pool:
        advance(_PROBED)
        run = pool.map if slow else map
        for part in run(lambda chunk: [header_seconds(path) for path in chunk], chunks):
            result += part
            advance(len(part))
    return result


def _stamps(paths: Sequence[str]) -> list[_Stamp | None]:
    """Size and time of change of each file, None where there is none."""
    return [_stamp(path) for path in paths]


def _stamp(path: str) -> _Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - as above
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _table_of(paths: Sequence[str]) -> Path:
    """The table for these files: one per folder that they have in common."""
    folders = {path.rpartition(os.sep)[0] for path in paths}
    try:
        folder = os.path.commonpath([f"{folder}{os.sep}" for folder in folders])
    except ValueError:  # on several drives
        folder = ""
    name = blake2b(os.fsencode(folder), digest_size=12).hexdigest()
    return cache_folder() / "durations" / f"{name}.parquet"


def _load(table: Path) -> dict[str, tuple[_Stamp, float]]:
    """File -> stamp and seconds; nothing where there is no table or a damaged one."""
    import pyarrow
    from pyarrow import parquet

    try:
        columns: dict[str, Any] = parquet.read_table(table, columns=list(_COLUMNS)).to_pydict()
        rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
        return {os.fsdecode(file): ((size, changed), seconds) for file, size, changed, seconds in rows}
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException):
        return {}


def _save(table: Path, known: dict[str, tuple[_Stamp, float]]) -> None:
    """Writes a table in one go; where several processes do, the last one's stays."""
    import pyarrow
    from pyarrow import parquet

    table.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "file": pyarrow.array([os.fsencode(file) for file in known], pyarrow.binary()),  # names need not be text
        "size": pyarrow.array([stamp[0] for stamp, _ in known.values()], pyarrow.int64()),
        "changed": pyarrow.array([stamp[1] for stamp, _ in known.values()], pyarrow.int64()),
        "seconds": pyarrow.array([seconds for _, seconds in known.values()], pyarrow.float64()),
    }
    handle, name = mkstemp(prefix=".", suffix=".part", dir=table.parent)
    os.close(handle)
    part = Path(name)
    try:
        parquet.write_table(pyarrow.table(columns), part)
        part.replace(table)
    finally:
        part.unlink(missing_ok=True)
