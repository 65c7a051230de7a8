"""A corpus as EmoBox prepares it: one JSON object a line, fold by fold (github.com/emo-box/EmoBox, Interspeech 2024).

The folds become the protocol ``folds`` (`sertune.corpora.published`). EmoBox names no speakers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora import table
from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import MAC_LEFTOVER, read_text
from sertune.data import labels
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="emobox",
    title="any corpus with EmoBox's folds (Ma et al., EmoBox, Interspeech 2024)",
    language="",
    speakers=0,
    hours=0.0,
    labels=(),
    licence="that of the corpus",
    where="folds: github.com/emo-box/EmoBox; audio: from each corpus, put where its .jsonl files say",
    layout="data/CORPUS/fold_1/CORPUS_train_fold_1.jsonl ..., and label_map.json beside the folds",
    kind="format",
)

_PARTS: Final = ("train", "valid", "test")
_FOLD: Final = re.compile(r"fold_(\d+)")
_ALIASES: Final = {
    "key": "id",
    "wav": "file",
    "emo": "emotion",
    "length": "duration",
    "start_time": "start",
    "end_time": "end",
}
# What says nothing of an utterance that a manifest would keep.
_LEFT_OUT: Final = ("dataset", "type", "sample_rate", "num_frame", "task", "channel")


def read(source: str | Path, columns: Mapping[str, str] | None = None, *, strict: bool = True) -> Manifest:
    """Read the folds of one corpus.

    Args:
        source: the corpus's folder (``EmoBox/data/iemocap``), or EmoBox's own if only one corpus is in its ``data``.
        columns: canonical column -> key in the lines, for other keys than EmoBox's.
        strict: False keeps values that are outside their scheme.

    Raises:
        SertuneError: no such folder, no folds in it, several corpora, a line that can't be read, an utterance in two
            parts of one fold, or none of the audio files is there.
    """
    folder = _corpus_folder(Path(source).expanduser())
    rows: dict[str, dict[str, Any]] = {}
    folds = sorted(int(match[1]) for path in folder.iterdir() if (match := _FOLD.fullmatch(path.name)))
    for number in folds:
        column = f"fold_{number}"
        for part in _PARTS:
            file = _part_file(folder, number, part)
            if file is None:
                continue
            for line, row in _lines(file):
                key = str(row["key"])
                first = rows.setdefault(key, row)
                if column in first:
                    raise SertuneError(
                        f"{file}, line {line}: {key} is in the {first[column]} part of this fold already; an utterance "
                        "must be in one part"
                    )
                first[column] = labels.partition(part)
    if not rows:
        raise SertuneError(
            f"no folds in {folder}: looked for {folder / 'fold_1' / f'{folder.name}_train_fold_1.jsonl'}"
        )
    frame = pd.DataFrame(list(rows.values()))
    frame = frame.drop(columns=[name for name in _LEFT_OUT if name in frame.columns])
    return table.from_frame(
        _mapped(frame, folder),
        str(folder),
        folder=_audio_root(folder, frame),
        name=f"emobox-{folder.name}",
        columns=columns,
        aliases=_ALIASES,
        strict=strict,
    )


def _corpus_folder(root: Path) -> Path:
    """The folder with ``fold_1``: the one given, or the only one below its ``data``."""
    if not root.is_dir():
        raise SertuneError(f"{root}: no such folder, expected EmoBox's folds with {INFO.layout}")
    if (root / "fold_1").is_dir():
        return root.absolute()
    above = root / "data" if (root / "data").is_dir() else root
    found = sorted(path.parent for path in above.glob("*/fold_1") if path.is_dir())
    if not found:
        raise SertuneError(
            f"no folds of EmoBox in {root}: looked for {root / 'fold_1'} and {above / 'CORPUS' / 'fold_1'}"
        )
    if len(found) > 1:
        raise SertuneError(
            f"{root} has folds of {len(found)} corpora ({', '.join(path.name for path in found)}); name one, e.g. "
            f"emobox:{found[0]}"
        )
    return found[0].absolute()


def _part_file(folder: Path, number: int, part: str) -> Path | None:
    """The file of a part, where the fold has it; some corpora have an older ``..._fold1.jsonl`` beside it."""
    inside = folder / f"fold_{number}"
    names = (f"{folder.name}_{part}_fold_{number}.jsonl", f"{folder.name}_{part}_fold{number}.jsonl")
    found = next((inside / name for name in names if (inside / name).is_file()), None)
    if found is None and part != "valid":
        raise SertuneError(f"{inside}: the fold has no {part} part, looked for {names[0]}")
    return found


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with their line numbers."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SertuneError(f"{file}, line {number}: not a JSON object ({error})") from error
        if not isinstance(row, dict) or not {"key", "wav"} <= row.keys():
            raise SertuneError(f"{file}, line {number}: expected an object with key, wav and emo")
        yield number, row


def _mapped(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with labels by ``label_map.json``, where there is one."""
    file = folder / "label_map.json"
    if not file.is_file() or "emo" not in frame.columns:
        return frame
    try:
        names = json.loads(read_text(file))
        mapping = {str(key): str(name) for key, name in names.items()}
    except (ValueError, AttributeError) as error:
        raise SertuneError(f'{file}: not a JSON object such as {{"hap": "Happy"}}') from error
    codes = frame["emo"].map(str, na_action="ignore")
    lacking = np.flatnonzero((codes.notna() & ~codes.isin(mapping)).to_numpy())
    if len(lacking):
        i = int(lacking[0])
        raise SertuneError(f"{file}: has no {codes.iat[i]!r}, the emotion of {frame['key'].iat[i]}")
    return frame.assign(emo=codes.map(mapping))


def _audio_root(folder: Path, frame: pd.DataFrame) -> Path:
    """The folder that the audio files are named from: EmoBox's own, two above the corpus's, or a nearer one."""
    first = [Path(str(wav)) for wav in frame["wav"].head(100)]
    for root in (folder.parent.parent, folder.parent, folder):
        if any((root / wav).is_file() for wav in first):
            return root
    raise SertuneError(f"{folder}: none of its audio files is there, looked for {folder.parent.parent / first[0]}")


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: a corpus of 24 noisy tones, 3 folds, the second with a dev part, a doubled older file."""
    import soundfile

    rng = np.random.default_rng(seed)
    codes = ("a", "h", "n", "s")
    corpus, audio = root / "data" / "imitation", root / "downloads" / "imitation"
    audio.mkdir(parents=True)
    rows = []
    for i in range(24):
        code = codes[i % 4]
        samples = int(16000 * rng.uniform(0.2, 0.4))
        tone = 0.2 * np.sin(2 * np.pi * (120 + 10 * i) * np.arange(samples) / 16000)
        soundfile.write(audio / f"{code}{i:02d} (1).wav", tone + 0.01 * rng.standard_normal(samples), 16000)
        row = {"key": f"imitation-{code}{i:02d}-1", "dataset": "imitation"}
        row["wav"] = f"downloads/imitation/{code}{i:02d} (1).wav"
        facts = {"type": "raw", "sample_rate": 16000, "num_frame": float(samples), "task": "category"}
        rows.append({**row, **facts, "length": samples / 16000, "emo": code, "channel": 1})
    for k in (1, 2, 3):
        folder = corpus / f"fold_{k}"
        folder.mkdir(parents=True)
        rest = [row for i, row in enumerate(rows) if (i // 4) % 3 != k - 1]
        parts = {"test": [row for row in rows if row not in rest], "train": rest}
        if k == 2:
            parts |= {"train": rest[4:], "valid": rest[:4]}
        for part, chosen in parts.items():
            text = "".join(json.dumps(row) + "\n" for row in chosen)
            (folder / f"imitation_{part}_fold_{k}.jsonl").write_text(text, "utf-8")
    (corpus / "fold_1" / "imitation_test_fold1.jsonl").write_text(json.dumps(rows[0]) + "\n", "utf-8")
    (corpus / "fold_1" / "._imitation_test_fold_1.jsonl").write_bytes(MAC_LEFTOVER)
    names = {"a": "Angry", "h": "Happy", "n": "Neutral", "s": "Sad"}
    (corpus / "label_map.json").write_text(json.dumps(names, indent=4), "utf-8")
