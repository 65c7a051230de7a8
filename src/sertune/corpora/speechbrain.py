"""Manifests as SpeechBrain's recipes write them: JSON, utterance id -> wav, length, emo (and others)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora import table
from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import read_text
from sertune.data import labels
from sertune.data.audio import audio_info
from sertune.data.manifest import Manifest
from sertune.errors import AudioError, SertuneError

INFO: Final = CorpusInfo(
    name="speechbrain",
    title="any data with SpeechBrain's JSON manifests",
    language="",
    speakers=0,
    hours=0.0,
    labels=(),
    licence="that of the data",
    where="what a recipe's prepare script wrote; @FOLDER after it says what {data_root} stands for",
    layout="train.json, valid.json, test.json, or one such file",
    kind="format",
)

_PLACEHOLDER: Final = re.compile(r"\{\w+\}/?")
_ALIASES: Final = {
    "wav": "file",
    "sig": "file",
    "emo": "emotion",
    "length": "duration",
    "stop": "end",
    "spk_id": "speaker",
    "spkid": "speaker",
    "spk": "speaker",
    "sex": "gender",
    "lang": "language",
    "words": "text",
    "wrd": "text",
    "transcript": "text",
}


def read(source: str | Path, columns: Mapping[str, str] | None = None, *, strict: bool = True) -> Manifest:
    """Read a folder with ``train.json`` and so on, or one file.

    Names of files are relative to what ``{data_root}`` (or another word in braces) stands for. Unless that is said,
    it is the first folder from the manifest's upwards where the first audio file is found.

    Args:
        source: FOLDER or FILE, with @DATA_ROOT if need be.
        columns: canonical column -> key in the manifest, e.g. ``{"speaker": "spk"}``.
        strict: False keeps values that are outside their scheme.

    Raises:
        SertuneError: no such manifest, one that can't be read, an id that two manifests have, or audio that is not
            there.
    """
    place, data_root = _place(str(source))
    manifests = _manifests(place)
    rows: dict[str, dict[str, Any]] = {}
    for file in manifests:
        part = labels.partition(file.stem)
        for key, entry in _entries(file).items():
            if key in rows:
                raise SertuneError(f"{file}: {key!r} is also in another of the manifests; an utterance is in one part")
            own = {"id": key, "partition": part} if part in labels.PARTITIONS else {"id": key}
            rows[key] = {**_flat(file, key, entry), **own}
    root = data_root or _found_root(place, next(iter(rows.values())))
    for row in rows.values():
        _resolve(row, root)
    return table.from_frame(
        pd.DataFrame(list(rows.values())),
        str(place),
        folder=root,
        name=place.absolute().name.removesuffix(".json"),
        columns=columns,
        aliases=_ALIASES,
        strict=strict,
    )


def _place(source: str) -> tuple[Path, Path | None]:
    """The manifest's place, and what stands for its data root if it is said."""
    whole = Path(source).expanduser()
    name, at, root = source.rpartition("@")
    if whole.exists() or not at:
        return whole, None
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise SertuneError(f"{folder}: no such folder, expected the one that {{data_root}} stands for")
    return Path(name).expanduser(), folder.absolute()


def _manifests(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise SertuneError(f"{place}: no such file or folder, expected SpeechBrain's {INFO.layout}")
    found = [file for file in sorted(place.glob("*.json")) if labels.partition(file.stem) in labels.PARTITIONS]
    if not found:
        raise SertuneError(f"no manifests of SpeechBrain in {place}: looked for train.json, valid.json and test.json")
    return sorted(found, key=lambda file: labels.PARTITIONS.index(labels.partition(file.stem)))


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(read_text(file))
    except ValueError as error:
        raise SertuneError(f"{file}: not JSON ({error})") from error
    if not isinstance(document, dict) or not all(isinstance(entry, dict) for entry in document.values()):
        raise SertuneError(
            f'{file}: expected an object of objects, {{"ID": {{"wav": ..., "length": ..., "emo": ...}}}}'
        )
    if not document:
        raise SertuneError(f"{file}: holds no utterance")
    return document


def _flat(file: Path, key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose values are texts and numbers; a part of a file (``wav`` with start and stop in samples) apart."""
    row = dict(entry)
    wav = row.get("wav")
    if isinstance(wav, dict) and "file" in wav:
        row["wav"] = wav["file"]
        row["_samples"] = (wav.get("start"), wav.get("stop"))
    for name, value in row.items():
        if isinstance(value, (dict, list)) and labels.attribute(_ALIASES.get(name.lower(), name)) in labels.ATTRIBUTES:
            raise SertuneError(f"{file}: {key!r} has a list as {name}, expected one value for the whole utterance")
    return row


def _found_root(place: Path, row: Mapping[str, Any]) -> Path:
    """The first folder upwards from the manifests with the first audio file below it."""
    wav = str(next((value for name, value in row.items() if _ALIASES.get(name.lower(), name) == "file"), ""))
    name = _PLACEHOLDER.sub("", wav)
    start = place.absolute() if place.is_dir() else place.absolute().parent
    for folder in (start, *start.parents):
        if (folder / name).is_file():
            return folder
    if wav and not Path(name).is_absolute():
        raise SertuneError(
            f"{place}: {wav} is in none of the folders above it; say what the name starts from: "
            f"speechbrain:{place}@FOLDER"
        )
    return start


def _resolve(row: dict[str, Any], root: Path) -> None:
    """Names without words in braces; times in seconds."""
    for name, value in row.items():
        if isinstance(value, str) and value.startswith("{"):
            row[name] = str(root / _PLACEHOLDER.sub("", value))
    first, last = row.pop("_samples", (None, None))
    if first is not None or last is not None:
        try:
            rate = audio_info(root / str(row["wav"])).rate
        except AudioError as error:
            raise SertuneError(f"{error}; its rate is needed, as start and stop are samples") from error
        row["start"] = None if first is None else first / rate
        row["end"] = None if last is None else last / rate


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation of the IEMOCAP recipe's manifests, as they name their files: 24 noisy tones."""
    import soundfile

    rng = np.random.default_rng(seed)
    parts: dict[str, dict[str, Any]] = {"train": {}, "valid": {}, "test": {}}
    for i in range(24):
        code = ("ang", "hap", "neu", "sad")[i % 4]
        session = 1 + i // 8
        name = f"psn{'mfi'[i % 3]}o{session}_{code}_s{i:03d}_orgn"
        folder = root / f"session{session}" / code
        folder.mkdir(parents=True, exist_ok=True)
        samples = int(16000 * rng.uniform(0.2, 0.4))
        tone = 0.2 * np.sin(2 * np.pi * (120 + 10 * i) * np.arange(samples) / 16000)
        soundfile.write(folder / f"{name}.wav", tone + 0.01 * rng.standard_normal(samples), 16000)
        wav = f"{{data_root}}/session{session}/{code}/{name}.wav"
        parts[("train", "valid", "test")[session - 1]][name] = {"wav": wav, "length": samples / 16000, "emo": code}
    manifests = root / "results" / "train_with_wav2vec2" / "1993"
    manifests.mkdir(parents=True)
    for part, entries in parts.items():
        (manifests / f"{part}.json").write_text(json.dumps(entries, indent=2), "utf-8")
