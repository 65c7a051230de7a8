"""EmoDB, the Berlin Database of Emotional Speech."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import soundfile

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import leave_one_speaker_out
from sertune.data.audio import EXTENSIONS
from sertune.data.durations import file_seconds
from sertune.data.labels import CODES
from sertune.data.manifest import Manifest
from sertune.data.protocols import Fold, Published
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="emodb",
    title="EmoDB, Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005)",
    language="de",
    speakers=10,
    hours=0.41,
    labels=("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness"),
    licence="CC0",
    where="TU Berlin, emodb.bilderbar.info",
    layout="wav/03a01Fa.wav, or the files directly below the folder",
)

GENDERS: Final = {
    "03": "male",
    "08": "female",
    "09": "female",
    "10": "male",
    "11": "male",
    "12": "male",
    "13": "female",
    "14": "female",
    "15": "male",
    "16": "female",
}

# Speaker, text, emotion, take: 03 a01 F a.
_NAME: Final = re.compile(r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])(?P<take>[a-z]?)")


def read(root: Path) -> Manifest:
    """Read ``root/wav/*.wav`` or ``root/*.wav``; durations come from the headers.

    Raises:
        SertuneError: no such folder, no EmoDB file in it, or an audio file that is not named as EmoDB's are.
    """
    folder = root / "wav" if (root / "wav").is_dir() else root
    files = _audio_files(folder, root)
    rows = []
    for file in files:
        match = _NAME.fullmatch(file.stem)
        if match is None:
            raise SertuneError(
                f"{file}: not named as EmoDB names its files (e.g. 03a01Fa.wav: speaker, text, one of WLEAFTN, "
                "take); move it out of the folder"
            )
        rows.append(
            {
                "id": file.stem,
                "file": str(file),
                "speaker": match["speaker"],
                "gender": GENDERS.get(match["speaker"]),
                "language": INFO.language,
                "text": match["text"],
                "emotion": CODES["emodb"][match["emotion"]],
            }
        )
    frame = pd.DataFrame(rows)
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def _audio_files(folder: Path, root: Path) -> list[Path]:
    if not root.is_dir():
        raise SertuneError(f"{root}: no such folder, expected EmoDB with {INFO.layout}")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
    if not any(_NAME.fullmatch(file.stem) for file in files):
        raise SertuneError(f"no EmoDB in {root}: looked for files like {folder / '03a01Fa.wav'}")
    return files


def _random_parts(frame: pd.DataFrame) -> Sequence[Fold]:
    """70 % train, 10 % dev, 20 % test of each emotion; it depends on nothing but the ids and emotions."""
    rng = np.random.default_rng(0)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for emotion in sorted(set(frame["emotion"].dropna())):
        rows = np.flatnonzero(frame["emotion"] == emotion)
        rows = rng.permutation(rows[np.argsort(frame["id"].to_numpy(dtype=str)[rows])])
        cuts = (np.array([0.7, 0.8]) * len(rows)).round().astype(np.int64)
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(chosen.tolist())
    train, dev, test = (np.sort(np.array(part, dtype=np.int64)) for part in parts)
    return [Fold("random", train, dev, test)]


PROTOCOLS: Final = (
    Published(
        "emodb-loso",
        "Schuller et al., ASRU 2009",
        "leave one speaker out: 10 folds, each tests one speaker. The choice of dev is ours: the next speaker in turn; "
        "the other eight train",
        leave_one_speaker_out,
    ),
    Published(
        "emodb-paper-d",
        "arXiv 2510.07052",
        "one random split of the clips, 80 % and 20 % test; speaker-dependent: every speaker is on both sides. Ours "
        "are the draw, the stratification by emotion, and the dev part, 10 % of all clips out of the 80 %; the source "
        "chose its settings on the test part",
        _random_parts,
    ),
)


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 3 speakers x 7 emotions of noisy tones in EmoDB's layout, 16 kHz, 16 bit, mono."""
    rng = np.random.default_rng(seed)
    folder = root / "wav"
    folder.mkdir(parents=True, exist_ok=True)
    for i, speaker in enumerate(("03", "08", "11")):
        for j, code in enumerate(CODES["emodb"]):
            text = ("a01", "a02", "b03")[(i + j) % 3]
            time = np.arange(int(16000 * rng.uniform(0.3, 0.8))) / 16000
            tone = 0.2 * np.sin(2 * np.pi * (100 + 60 * i + 20 * j) * time)
            noise = 0.01 * rng.standard_normal(len(time))
            soundfile.write(folder / f"{speaker}{text}{code}a.wav", tone + noise, 16000, subtype="PCM_16")
    # What macOS leaves beside files on a foreign disk.
    (folder / "._03a01Fa.wav").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
