"""Audio sets of Hugging Face's datasets library: saved ones, folders of audio or Parquet, and names on the hub.

Nothing is decoded by that library. Audio that a set holds as bytes is written, as it is, to files in the user's cache
folder once, since a manifest names files.
"""

import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora import table
from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import files_below, read_table, read_text
from sertune.data import labels
from sertune.data.audio import EXTENSIONS
from sertune.data.durations import cache_folder, file_seconds
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError
from sertune.files import unwritable
from sertune.progress import progress

INFO: Final = CorpusInfo(
    name="hf",
    title="any audio set of Hugging Face's datasets, e.g. hf:OWNER/NAME/CONFIG@train",
    language="",
    speakers=0,
    hours=0.0,
    labels=(),
    licence="that of the set",
    where="a folder (save_to_disk, audio files with metadata.csv, Parquet with audio), or the hub",
    layout="an audio column and a column with labels (--columns.emotion NAME if it is not called label or emotion)",
    kind="format",
)

_ALIASES: Final = {
    "audio": "file",
    "path": "file",
    "file_name": "file",
    "emotions": "emotion",
    "speaker_id": "speaker",
    "sex": "gender",
    "lang": "language",
    "transcription": "text",
    "transcript": "text",
    "sentence": "text",
}
_SUFFIX_OF: Final = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3", "MPEG": ".mp3"}


def read(source: str | Path, columns: Mapping[str, str] | None = None, *, strict: bool = True) -> Manifest:
    """Read a set; several splits become parts of one manifest.

    Args:
        source: FOLDER, a Parquet FILE or OWNER/NAME, then /CONFIG and @SPLIT if need be.
        columns: canonical column -> column of the set.
        strict: False keeps values that are outside their scheme.

    Raises:
        SertuneError: datasets is not installed, no such set, it can't be fetched or read, or it lacks an audio column
            or labels.
    """
    name, config, split = _parts(str(source))
    chosen = columns or {}
    loose = _audio_folder(Path(name).expanduser())
    splits: dict[str, Any] = _load(name, config) if loose is None else dict(loose)
    if split is not None and split not in splits:
        raise SertuneError(f"hf:{name} has no split {split!r}; it has {', '.join(splits)}")
    wanted = list(splits) if split is None else [split]
    frames = []
    for part in wanted:
        frame = splits[part]
        if loose is None:
            frame = _frame(f"hf:{name}", frame, chosen, part)
            frame["id"] = [f"{part}/{key}" if len(splits) > 1 else key for key in frame["id"]]
        frames.append(frame if len(wanted) == 1 else _marked(frame, part))
    whole = pd.concat(frames, ignore_index=True)
    home = Path(name).expanduser()
    manifest = table.from_frame(
        whole,
        f"hf:{name}",
        folder=home if home.is_dir() else Path.cwd(),
        name=PurePosixPath(name.rstrip("/")).name.removesuffix(".parquet"),
        columns={key: column for key, column in chosen.items() if key != "file"},
        aliases=_ALIASES,
        strict=strict,
    )
    whole_files = manifest.utterances["start"].isna() & manifest.utterances["end"].isna()
    if whole_files.any():  # a column of that name may be in any unit
        seconds = pd.Series(file_seconds(manifest.utterances["file"].tolist()))
        known = manifest.utterances["duration"].mask(whole_files, seconds)
        manifest = replace(manifest, utterances=manifest.utterances.assign(duration=known))
    return manifest


def _marked(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    """A split with its part, unless the set says it in a column."""
    if {"partition", "split"} & {str(column).lower() for column in frame.columns}:
        return frame
    kind = labels.partition(part)
    return frame.assign(**({"partition": kind} if kind in labels.PARTITIONS else {"subset": part}))


def _parts(source: str) -> tuple[str, str | None, str | None]:
    """Name or folder, configuration and split."""
    if Path(source).expanduser().exists():
        return source, None, None
    name, _, split = source.partition("@")
    if Path(name).expanduser().exists():
        return name, None, split or None
    above, _, config = name.rpartition("/")
    if above and (Path(above).expanduser() / "README.md").is_file():  # it names the configurations of a folder
        return above, config, split or None
    if name.startswith((".", "/", "~")):
        raise SertuneError(f"{name}: no such folder, expected {INFO.where}")
    return (above, config, split or None) if above.count("/") == 1 else (name, None, split or None)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SertuneError("Hugging Face sets need the library datasets: pip install 'sertune[hf]'") from error
    return datasets


def _load(name: str, config: str | None) -> dict[str, Any]:
    """The splits of a set, none of them decoded."""
    library = _library()
    if not sys.stderr.isatty():
        library.disable_progress_bars()
    folder = Path(name).expanduser()
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            found = library.load_from_disk(str(folder))
        elif folder.is_file():
            found = library.load_dataset("parquet", data_files=str(folder))
        else:
            found = library.load_dataset(str(folder), config)
    except Exception as error:  # of the hub, of the network and of every kind of file
        if isinstance(error.__cause__, ImportError):
            raise SertuneError(
                f"hf:{name}: holds loose audio files, which datasets can't take in here; fetch them, e.g. with "
                f"hf download --repo-type dataset {name} --local-dir FOLDER, and give hf:FOLDER"
            ) from error
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise SertuneError(f"hf:{name}: can't be read ({text or type(error).__name__})") from error
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _audio_folder(folder: Path) -> dict[str, pd.DataFrame] | None:
    """The splits of a folder of loose audio files; None where it is something else.

    As the library has it: metadata.csv, .jsonl or .parquet beside the files tells of them; without it the folder's
    name is the label. Folders named train, validation or test are splits. (The library itself could not: it hands
    such files to torchcodec.)
    """
    if not folder.is_dir():
        return None
    data = files_below(folder, (".parquet", ".arrow"))
    if any(file.stem != "metadata" for file in data) or not (audio := files_below(folder)):
        return None
    tables = [file for file in files_below(folder, (".csv", ".jsonl", ".parquet")) if file.stem == "metadata"]
    if tables:
        whole = pd.concat([_metadata(file) for file in tables], ignore_index=True)
    else:
        whole = pd.DataFrame({"file": audio, "label": [file.parent.name for file in audio]})
    names = [Path(os.path.relpath(file, folder)) for file in whole["file"]]
    whole = whole.assign(file=[str(file) for file in whole["file"]], id=[name.as_posix() for name in names])
    parts = [next((w for w in name.parts[:-1] if labels.partition(w) in labels.PARTITIONS), "train") for name in names]
    return {part: rows.reset_index(drop=True) for part, rows in whole.groupby(pd.Series(parts), sort=False)}


def _metadata(file: Path) -> pd.DataFrame:
    """A table of audio files, by ``file_name`` relative to it."""
    try:
        if file.suffix == ".csv":
            rows = read_table(file, ["file_name"])
        elif file.suffix == ".jsonl":
            rows = pd.DataFrame([json.loads(line) for line in read_text(file).splitlines() if line.strip()])
        else:
            rows = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise SertuneError(f"{file}: can't be read ({' '.join(str(error).split())})") from error
    if "file_name" not in rows.columns:
        raise SertuneError(f"{file}: no column 'file_name'; found {', '.join(map(str, rows.columns))}")
    return rows.rename(columns={"file_name": "file"}).assign(file=[file.parent / name for name in rows["file_name"]])


# From columns to a table


def _frame(where: str, data: Any, columns: Mapping[str, str], split: str) -> pd.DataFrame:
    """One split as a table with the columns that hold texts or numbers, ``file`` and ``id``."""
    import pyarrow

    content = data.with_format("arrow")[:]
    audio = _audio_column(where, data, columns)
    frame = pd.DataFrame(index=range(len(content)))
    for name in content.column_names:
        kind = content.schema.field(name).type
        if name == audio or pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
            continue
        values = pd.Series(content[name].to_pandas())
        names = getattr(data.features[name], "names", None)
        frame[name] = values.map(dict(enumerate(names))) if names and pd.api.types.is_integer_dtype(values) else values
    if audio is None:
        return frame.assign(id=[f"{i:06d}" for i in range(len(frame))])
    taken = [column for column in frame.columns if _ALIASES.get(str(column).lower(), str(column).lower()) == "file"]
    frame = frame.drop(columns=taken)
    paths = [str(path) if path is not None else None for path in _field(content[audio], "path")]
    held = ~np.asarray(_field(content[audio], "bytes", as_mask=True), dtype=bool)
    folder = cache_folder() / "hf" / f"{_plain(data._fingerprint)}-{_plain(split)}"
    files = _written(folder, content[audio], paths, np.flatnonzero(held).tolist()) if held.any() else paths
    if lacking := [i for i, file in enumerate(files) if file is None]:
        raise SertuneError(f"{where}, {split}, row {lacking[0] + 1}: no audio ({len(lacking)} such rows)")
    stems = [PurePosixPath(path or f"{i:06d}").name for i, path in enumerate(paths)]
    own = stems if len(set(stems)) == len(stems) else [f"{i:06d}" for i in range(len(stems))]
    if "id" in frame.columns and frame["id"].is_unique and frame["id"].notna().all():
        own = [str(value) for value in frame["id"]]
    return frame.assign(file=pd.Series(files, dtype=object), id=own)


def _audio_column(where: str, data: Any, columns: Mapping[str, str]) -> str | None:
    """The column with audio; None where a column of texts names the files.

    Raises:
        SertuneError: there is neither, or several.
    """
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    audio = [name for name, kind in kinds.items() if kind == "Audio"]
    listed = ", ".join(f"{name} ({_kind(feature)})" for name, feature in data.features.items())
    if (stated := columns.get("file")) is not None:
        if stated not in kinds:
            raise SertuneError(f"{where}: no column {stated!r} (meant for file); it has {listed}")
        return stated if stated in audio else None
    if len(audio) > 1:
        raise SertuneError(
            f"{where}: {len(audio)} audio columns ({', '.join(audio)}); choose one with --columns.file NAME"
        )
    if not audio and not any(_ALIASES.get(name.lower(), name.lower()) == "file" for name in kinds):
        raise SertuneError(
            f"{where}: no audio column; it has {listed}; say which names the files with --columns.file NAME"
        )
    return audio[0] if audio else None


def _kind(feature: Any) -> str:
    """E.g. ``ClassLabel`` or ``string``."""
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def _field(column: Any, name: str, *, as_mask: bool = False) -> Any:
    """A field of a struct column: its values, or where it is missing; bytes are not touched for the latter."""
    from pyarrow import compute

    inner = compute.struct_field(column, name)
    return compute.is_null(inner).to_numpy() if as_mask else inner.to_pylist()


# Files


def _written(folder: Path, column: Any, paths: Sequence[str | None], rows: Sequence[int]) -> list[str | None]:
    """Paths of all clips, after those that the set holds as bytes were written to files that are not there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    there = {name.partition("-")[0]: name for path in folder.iterdir() if not (name := path.name).startswith(".")}
    files = list(paths)
    new = [int(i) for i in rows if f"{i:06d}" not in there]
    with progress("Writing audio", len(new)) as advance:
        for i, data in _bytes(column, new):
            name = _file_name(i, paths[i], data)
            part = folder / f".{os.getpid()}-{name}"  # another process may write the same
            try:
                part.write_bytes(data)
                part.replace(folder / name)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise unwritable(folder / name, error) from error
            there[f"{i:06d}"] = name
            advance(1)
    for i in rows:
        files[i] = str(folder / there[f"{i:06d}"])
    return files


def _bytes(column: Any, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """The audio of some rows, one after the other."""
    for i in rows:
        yield i, column[i]["bytes"].as_py()


def _file_name(row: int, path: str | None, data: bytes) -> str:
    """Row and name as in the set, with the suffix of what it holds."""
    import soundfile

    stem, suffix = PurePosixPath(path or "").stem, PurePosixPath(path or "").suffix.lower()
    if suffix not in EXTENSIONS:
        try:
            suffix = _SUFFIX_OF.get(soundfile.info(io.BytesIO(data)).format, ".wav")
        except (soundfile.LibsndfileError, RuntimeError):
            suffix = suffix or ".wav"  # `sertune check` will say what it is
    return f"{row:06d}-{_plain(stem) or 'clip'}{suffix}"


def _plain(text: str) -> str:
    """Text as it may stand in a file's name everywhere."""
    return re.sub(r"[^\w.+-]+", "_", str(text))[:80].strip("._")


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: a saved set of 24 noisy tones held as bytes, three splits, labels as numbers with names."""
    import soundfile

    library = _library()
    library.disable_progress_bars()
    rng = np.random.default_rng(seed)
    names = ["angry", "happy", "neutral", "sad"]
    parts = {}
    for k, part in enumerate(("train", "validation", "test")):
        rows = []
        for i in range(12 if part == "train" else 6):
            samples = int(16000 * rng.uniform(0.2, 0.4))
            tone = 0.2 * np.sin(2 * np.pi * (120 + 10 * i) * np.arange(samples) / 16000)
            data = io.BytesIO()
            suffix = ("wav", "flac")[i % 2]
            soundfile.write(data, tone + 0.01 * rng.standard_normal(samples), 16000, format=suffix)
            audio = {"bytes": data.getvalue(), "path": f"{part}_{i}.{suffix}" if i else None}
            rows.append({"audio": audio, "label": i % 4, "speaker_id": 10 * k + i // 4, "gender": "fm"[i // 4 % 2]})
        features = {
            "audio": {"bytes": library.Value("binary"), "path": library.Value("string")},
            "label": library.ClassLabel(names=names),
            "speaker_id": library.Value("int64"),
            "gender": library.Value("string"),
        }
        data_set = library.Dataset.from_list(rows, features=library.Features(features))
        parts[part] = data_set.cast_column("audio", library.Audio(decode=False))
    library.DatasetDict(parts).save_to_disk(str(root))
