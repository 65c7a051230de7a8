"""States of the frozen part on disk, for every run that can use them.

A cache folder holds sets, one folder each::

    CACHE/cache.json                    version of the format
    CACHE/1f0c.../key.json              what the set's numbers depend on, and the encoder's name
    CACHE/1f0c.../PID-UUID.safetensors  shards: rows of many clips, one after the other
    CACHE/files/UUID.json               digests of the samples of audio files, so that a warm run decodes nothing

There are two kinds of sets: the frames that enter one layer, and pooled vectors of all layers. Within a set a clip is
known by the digest of its samples, so that crop, rate and contents of a file are in it. Shards are written once under
a name of their own and renamed when complete, so several processes may write into one set, and one that is killed
leaves nothing half-written. A second shard with the same clip is passed over.
"""

import hashlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sertune.config import CacheConfig
from sertune.errors import SertuneError
from sertune.files import check_writable, unwritable
from sertune.model.encoder import Encoder
from sertune.model.features import Features
from sertune.progress import say

FORMAT = 1
VARIABLE = "SERTUNE_CACHE"
MIB, GIB = 2**20, 2**30
SHARD_BYTES = 64 * MIB
SHARD_SECONDS = 30.0
"""A shard is closed at this size, or this long after its first clip: a killed process loses no more."""
CHECKED_AT_ONCE = 2 * GIB
"""Up to this size every clip is compared with its checksum when a run begins, beyond it when it is first read."""
SETTLED_SECONDS = 2.0
"""Files changed less than this ago may change again within the clock's step; they are decoded in the next run too."""
MOST_FILES = 20
"""Files of sample digests before they are put together."""
ABANDONED_SECONDS = 3600.0
"""Half-written files older than this belong to no process any more."""

SET_NAME = re.compile(r"[0-9a-f]{16}")
NOT_NUMBERS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Of a model's configuration: what says where it came from."""

TORCH_DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
FLOAT16_MAX = 65504.0


def cache_folder(config: CacheConfig) -> Path | None:
    """The folder that a configuration names, or else the environment's ``SERTUNE_CACHE``; None: no cache on disk."""
    named = config.folder or os.environ.get(VARIABLE, "")
    return Path(named).expanduser() if named else None


def open_cache(config: CacheConfig) -> "DiskCache | None":
    """The cache that a configuration names, if it keeps states; None: there is none on disk.

    Raises:
        SertuneError: a newer sertune wrote it, or it holds something else.
    """
    folder = cache_folder(config)
    return DiskCache(folder, config.disk_gib) if folder is not None and config.states else None


def states_key(encoder: Encoder, precision: str, layer: int | None, dtype: str) -> dict[str, Any]:
    """Everything that a set's numbers depend on, besides the samples of each clip.

    Args:
        encoder: with the weights as pre-trained.
        precision: in which the frozen pass computes: ``fp32``, ``bf16`` or ``fp16``.
        layer: whose input is kept frame by frame; None: pooled vectors of all layers.
        dtype: of the numbers on disk.
    """
    settings: Any = encoder.model.config
    model = {key: value for key, value in settings.to_dict().items() if key not in NOT_NUMBERS}
    return {
        "format": FORMAT,
        "weights": encoder.digest,
        "model": _digest(model),
        "features": _digest(encoder.features.extractor.to_dict()),
        "rate": encoder.rate,
        "silence": encoder.features.silence,
        "level": encoder.features.level,
        "precision": precision,
        "layer": "pooled" if layer is None else layer,
        "dtype": dtype,
    }


def inputs_key(features: Features, dtype: str) -> dict[str, Any]:
    """The key of what an encoder takes as its input, ``(T, D)`` of each clip."""
    return {
        "features": _digest(features.extractor.to_dict()),
        "rate": features.rate,
        "silence": features.silence,
        "level": features.level,
        "precision": "fp32",
        "layer": "input",
        "dtype": dtype,
    }


def outputs_key(encoder: Encoder, weights: str, precision: str) -> dict[str, Any]:
    """The key of what a model with a head makes of each clip, ``(1, K)``; ``weights`` is the head's digest."""
    return {**states_key(encoder, precision, None, "float32"), "layer": "outputs", "head": weights}


def _digest(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def disk_dtype(dtype: str, precision: str) -> str:
    """The type of frames on disk; ``auto`` is the one that holds what a precision computes."""
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision] if dtype == "auto" else dtype


def row_bytes(dtype: str, width: int) -> int:
    """Bytes of one row of ``width`` numbers on disk."""
    return width * TORCH_DTYPES[dtype].itemsize + (4 if dtype == "int8" else 0)


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, D) as int8 with one symmetric scale each, (N,) float32; the error is at most half a scale."""
    scales = rows.abs().amax(1) / 127
    return (rows / scales.clamp_min(1e-30)[:, None]).round().to(torch.int8), scales


@dataclass(frozen=True)
class Place:
    """Where a clip is: rows ``first`` to ``last`` of a shard, and their checksum."""

    file: Path
    first: int
    last: int
    checksum: int


@dataclass
class Shard:
    """A shard as it is on disk, mapped and read only when used.

    Attributes:
        rows: (N, D) of all its clips.
        scales: (N,) with int8, else None.
        places: where each clip is.
    """

    rows: Tensor
    scales: Tensor | None
    places: dict[str, Place]

    def parts(self, clip: str) -> tuple[Tensor, Tensor | None]:
        """Rows (T, D) and scales (T,) of a clip, as stored."""
        span = slice(self.places[clip].first, self.places[clip].last)
        return self.rows[span], None if self.scales is None else self.scales[span]

    def is_sound(self, clip: str) -> bool:
        """Whether a clip matches its checksum."""
        return _checksum(clip, *self.parts(clip)) == self.places[clip].checksum


def _checksum(clip: str, rows: Tensor, scales: Tensor | None) -> int:
    """CRC-32 of a clip's name, rows and scales."""
    value = zlib.crc32(_buffer(rows), zlib.crc32(clip.encode()))
    return value if scales is None else zlib.crc32(_buffer(scales), value)


def _buffer(rows: Tensor) -> memoryview:
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")


class DamagedError(Exception):
    """A shard that can't be used, with the reason."""


def open_shard(file: Path, dtype: str) -> Shard:
    """A shard of a set whose numbers are of a type.

    Raises:
        DamagedError: truncated, or not what its header says.
        OSError: the system can't read it.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            about = stored.metadata() or {}
            clips, checksums = json.loads(about["clips"]), json.loads(about["checksums"])
            rows, offsets = stored.get_tensor("rows"), stored.get_tensor("offsets").tolist()
            scales = stored.get_tensor("scales") if dtype == "int8" else None
        if rows.dtype != TORCH_DTYPES.get(dtype) or rows.ndim != 2 or (scales is not None and len(scales) != len(rows)):
            raise DamagedError(f"holds {rows.dtype} of shape {tuple(rows.shape)}")
        spans = zip(clips, offsets[:-1], offsets[1:], checksums, strict=True)
        places = {clip: Place(file, first, last, checksum) for clip, first, last, checksum in spans}
        if any(not 0 <= place.first < place.last <= len(rows) for place in places.values()):
            raise DamagedError("has clips beyond its end")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedError(" ".join(str(error).split())[:120]) from None
    return Shard(rows, scales, places)


@contextmanager
def _placing(file: Path) -> Iterator[Path]:
    """As `sertune.files.replacing`, for a file that several processes may write at once; it is on the disk at the end.

    Raises:
        SertuneError: the disk is full, or the file can't be written for another reason.
    """
    part = file.with_name(f"{file.name}.{uuid4().hex[:8]}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(file)
    except (OSError, SafetensorError) as error:
        raise unwritable(file, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


class StateSet:
    """The states of many clips under one key, on disk: from a clip's name to its rows (T, D).

    Args:
        folder: of the set; made with the first shard.
        key: see `states_key`.
        encoder: its name, for people.
        at_once: check every clip when it is first asked for, whatever the size of the set.
    """

    def __init__(self, folder: Path, key: dict[str, Any], encoder: str, *, at_once: bool) -> None:
        self.folder, self.key, self.encoder = folder, key, encoder
        self.dtype: str = key["dtype"]
        self._shards = self._open_shards()
        self._places: dict[str, Place] = {}
        self._index()
        self._at_once = at_once or sum(map(self.nbytes, self._places)) <= CHECKED_AT_ONCE
        self._sound: set[str] = set()
        self._added: set[str] = set()
        self._waiting: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._bytes = 0
        self._begun = 0.0
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[tuple[Path, Shard]] | None = None
        with suppress(OSError):
            os.utime(folder / "key.json")  # when it was last used

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, clip: str) -> bool:
        """Whether the clip is here, undamaged; a damaged shard is named and removed, with all its clips."""
        while clip in self._places:
            if not self._at_once or self._is_sound(clip):
                return True
            self._drop(clip)
        return clip in self._added

    def nbytes(self, clip: str) -> int:
        """Bytes of a clip on disk; 0 if it is not there."""
        place = self._places.get(clip)
        if place is None:
            return 0
        return (place.last - place.first) * row_bytes(self.dtype, self._shards[place.file].rows.shape[1])

    def read(self, clip: str) -> Tensor:
        """The rows of a clip (T, D): as stored, mapped from the disk; of int8 as float32.

        Raises:
            SertuneError: they are damaged; the shard is then removed.
        """
        place = self._places[clip]
        if not self._is_sound(clip):
            self._drop(clip)
            raise SertuneError(f"{place.file}: damaged, and removed; the same command goes on and computes it again")
        rows, scales = self._shards[place.file].parts(clip)
        return rows if scales is None else rows.float() * scales[:, None]

    def add(self, clip: str, rows: Tensor) -> None:
        """Notes the rows (T, D) of a clip, to be written with others.

        Raises:
            OverflowError: float16 does not hold them.
            SertuneError: an earlier shard could not be written.
        """
        if clip in self:
            return
        rows, scales = rows.detach().cpu().float(), None
        if self.dtype == "int8":
            rows, scales = quantise(rows)
        elif self.dtype == "float16" and (peak := float(rows.abs().max())) > FLOAT16_MAX:
            raise OverflowError(f"{peak:g}")
        rows = rows.to(TORCH_DTYPES[self.dtype])
        self._begun = self._begun or time.monotonic()
        self._added.add(clip)
        self._waiting[clip] = rows, scales
        self._bytes += rows.nbytes
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._begun > SHARD_SECONDS:
            self._flush()

    def close(self) -> None:
        """Writes what waits; everything that was added can be read after that.

        Raises:
            SertuneError: it could not be written.
        """
        try:
            self._flush()
            self._settle()
        finally:
            self._added = set()
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def _flush(self) -> None:
        """Hands what waits to the thread that writes, once the shard before is written."""
        self._settle()
        if self._waiting:
            self._writer = self._writer or ThreadPoolExecutor(1)
            waiting, self._waiting, self._bytes, self._begun = self._waiting, {}, 0, 0.0
            self._pending = self._writer.submit(self._write, waiting)

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            file, shard = pending.result()
            self._shards[file] = shard
            for clip, place in shard.places.items():
                self._places.setdefault(clip, place)
            self._sound |= shard.places.keys()

    def _write(self, waiting: dict[str, tuple[Tensor, Tensor | None]]) -> tuple[Path, Shard]:
        scales = [part for _, part in waiting.values() if part is not None]
        lengths = torch.tensor([0] + [len(rows) for rows, _ in waiting.values()])
        tensors = {"rows": torch.cat([rows for rows, _ in waiting.values()]), "offsets": lengths.cumsum(0)}
        about = {
            "format": str(FORMAT),
            "clips": json.dumps(list(waiting)),
            "checksums": json.dumps([_checksum(clip, *parts) for clip, parts in waiting.items()]),
        }
        if not key_of(self.folder):
            write_json(self.folder / "key.json", {**self.key, "encoder": self.encoder})
        file = self.folder / f"{os.getpid()}-{uuid4().hex}.safetensors"
        with _placing(file) as part:
            save_file(tensors | ({"scales": torch.cat(scales)} if scales else {}), part, about)
        return file, open_shard(file, self.dtype)

    def _open_shards(self) -> dict[Path, Shard]:
        """All shards, the first that was written first; what is damaged is named and removed."""
        shards = {}
        for file in shard_files(self.folder):
            try:
                shards[file] = open_shard(file, self.dtype)
            except FileNotFoundError:
                continue  # removed by another process
            except OSError as error:
                raise SertuneError(f"{file}: can't be read ({error.strerror}); choose another --cache.folder") from None
            except DamagedError as error:
                _remove(file, str(error))
        return shards

    def _index(self) -> None:
        """The first place of every clip."""
        self._places = {}
        for shard in self._shards.values():
            for clip, place in shard.places.items():
                self._places.setdefault(clip, place)

    def _is_sound(self, clip: str) -> bool:
        if clip not in self._sound:
            if not self._shards[self._places[clip].file].is_sound(clip):
                return False
            self._sound.add(clip)
        return True

    def _drop(self, clip: str) -> None:
        """Forgets and removes the shard that a damaged clip is in."""
        file = self._places[clip].file
        _remove(file, f"the checksum of clip {clip} does not match")
        self._sound -= self._shards.pop(file).places.keys()
        self._index()


def _remove(file: Path, reason: str) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise SertuneError(f"{file}: damaged ({reason}), and can't be removed ({error.strerror})") from None
    say(f"{file}: damaged ({reason}); removed, its clips are computed again")


def key_of(folder: Path) -> dict[str, Any]:
    """The key of a set with the encoder's name, as it is stored; empty where it can't be read or is another set's."""
    try:
        stored: dict[str, Any] = json.loads((folder / "key.json").read_text(encoding="utf-8"))
        key = {name: value for name, value in stored.items() if name != "encoder"}
    except (OSError, ValueError, AttributeError):
        return {}
    return stored if _digest(key) == folder.name else {}


def shard_files(folder: Path) -> list[Path]:
    """The shards of a set, the first that was written first."""
    found = []
    for file in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(found)]


class FileDigests:
    """Digest and length of the samples that were read of each file: what spares a warm run the decoding.

    A file is known by path, size, times of change, segment, crop and rate. The table is the union of small files, each
    written once, so several processes may add to it.

    Args:
        folder: ``files`` of a cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[str, int]] = {}
        self._new: dict[str, tuple[str, int]] = {}
        self._read: list[Path] = []
        for file in sorted(folder.glob("*.json")):
            try:
                stored = json.loads(file.read_text(encoding="utf-8"))
                self._known |= {key: (str(digest), int(samples)) for key, (digest, samples) in stored.items()}
            except FileNotFoundError:
                continue  # put together with others meanwhile
            except (OSError, ValueError, TypeError, AttributeError):
                say(f"{file}: damaged; its audio files are read again")
            self._read.append(file)

    @staticmethod
    def key(file: str, *details: object) -> str:
        """The name under which a file is known as it is now; empty if it can't be found, or has just changed."""
        try:
            status = Path(file).stat()
        except OSError:
            return ""
        if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
            return ""
        seen = [str(Path(file).absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, *details]
        return hashlib.blake2b(repr(seen).encode(errors="surrogateescape"), digest_size=12).hexdigest()

    def find(self, key: str) -> tuple[str, int] | None:
        """Digest and number of the samples, if the file was read before."""
        return self._known.get(key)

    def note(self, key: str, digest: str, samples: int) -> None:
        """Remembers what was read."""
        if key and key not in self._known:
            self._new[key] = self._known[key] = digest, samples

    def save(self) -> None:
        """Writes what is new, and puts the files together where there are many."""
        if not self._new:
            return
        many = len(self._read) > MOST_FILES
        try:
            write_json(self.folder / f"{uuid4().hex}.json", self._known if many else self._new)
        except SertuneError:
            return  # nothing but time is lost
        self._new = {}
        if many:
            for file in self._read:
                with suppress(OSError):
                    file.unlink(missing_ok=True)


class DiskCache:
    """A cache folder.

    Args:
        folder: made with the first states that are written.
        disk_gib: cap of the whole folder.

    Raises:
        SertuneError: a newer sertune wrote it, or it holds something else.
    """

    def __init__(self, folder: Path, disk_gib: float = float("inf")) -> None:
        self.folder, self.disk_gib = folder, disk_gib
        check_format(folder)
        _sweep(folder)
        self.files = FileDigests(folder / "files")

    def open(self, encoder: Encoder, precision: str, layer: int | None, dtype: str) -> StateSet:
        """The frames that enter a layer, or pooled vectors (``layer`` None, always float32)."""
        key = states_key(encoder, precision, layer, "float32" if layer is None else dtype)
        return StateSet(self.folder / _digest(key), key, encoder.name, at_once=layer is None)

    def open_extra(self, name: str, key: dict[str, Any]) -> StateSet:
        """Rows that are no states of an encoder.

        Args:
            name: what they are, for people.
            key: everything that their numbers depend on, besides the samples; with ``layer`` and ``dtype``.
        """
        key = {"format": FORMAT, **key}
        return StateSet(self.folder / _digest(key), key, name, at_once=False)

    def reserve(self, size: int) -> None:
        """Makes the folder ready for ``size`` bytes.

        Raises:
            SertuneError: they pass the cap or what is free on the disk, or the folder can't be written.
        """
        check_writable(self.folder)
        held = folder_bytes(self.folder)
        if held + size > self.disk_gib * GIB:
            raise SertuneError(
                f"cache {self.folder}: holds {show_bytes(held)}, and {show_bytes(size)} more would pass "
                f"cache.disk_gib = {self.disk_gib:g}; raise it, make room with sertune cache prune, "
                "or choose a smaller --cache.dtype, fewer --cache.views or --cache.states false"
            )
        above = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(above).free
        if size > free:
            raise SertuneError(
                f"cache {self.folder}: {show_bytes(size)} would be written, but the disk has only {show_bytes(free)} "
                "left; make room (sertune cache prune), or choose another --cache.folder or --cache.states false"
            )
        if not (self.folder / "cache.json").is_file():
            write_json(self.folder / "cache.json", {"format": FORMAT, "made by": "sertune, see: sertune cache --help"})


def check_format(folder: Path) -> None:
    """Raises `SertuneError` where a folder is no cache, or one that a newer sertune wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SertuneError(f"cache {folder}: is a file; choose a folder with --cache.folder")
    try:
        names = {entry.name for entry in folder.iterdir()}
        stored = json.loads((folder / "cache.json").read_text(encoding="utf-8")) if "cache.json" in names else None
        version = FORMAT if stored is None else int(stored["format"])
    except OSError as error:
        raise SertuneError(f"cache {folder}: can't be read ({error.strerror}); choose another --cache.folder") from None
    except (ValueError, KeyError, TypeError):
        raise SertuneError(f"{folder / 'cache.json'}: damaged; remove it, or choose another --cache.folder") from None
    if version > FORMAT:
        raise SertuneError(
            f"cache {folder}: a newer sertune wrote it (format {version}, this one reads up to {FORMAT}); "
            "update sertune or choose another --cache.folder"
        )
    if stored is None and (strange := sorted(name for name in names if not _is_ours(name))):
        raise SertuneError(
            f"cache {folder}: the folder holds something else ({strange[0]}); choose an empty or a new --cache.folder"
        )


def _is_ours(name: str) -> bool:
    return name in ("cache.json", "files") or name.endswith(".part") or SET_NAME.fullmatch(name) is not None


def set_folders(folder: Path) -> list[Path]:
    """The sets of a cache, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if SET_NAME.fullmatch(path.name) and path.is_dir())


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += (Path(place) / name).stat().st_size
    return total


def show_bytes(size: float) -> str:
    """A size for people, in MiB or GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half-written."""
    for file in [*folder.glob("*.part"), *folder.glob("*/*.part")]:
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                file.unlink()


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Writes a file of the cache, all of it or nothing."""
    with _placing(file) as part:
        part.write_text(json.dumps(values, indent=1), encoding="utf-8")


class Stored(Sequence[Tensor]):
    """States of the clips of a run, in order, read from a set when asked for.

    Args:
        states: the set.
        clips: their names in it.
        dtype: what they are read as: that of states just computed.
    """

    def __init__(self, states: StateSet, clips: Sequence[str], dtype: torch.dtype) -> None:
        self.states, self.clips, self.dtype = states, clips, dtype

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: Any) -> Any:
        return self.states.read(self.clips[row]).to(self.dtype)
