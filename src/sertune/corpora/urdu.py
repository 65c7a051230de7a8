"""URDU: clips from Urdu talk shows."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import soundfile

from sertune.corpora.info import CorpusInfo
from sertune.data.audio import EXTENSIONS
from sertune.data.durations import file_seconds
from sertune.data.labels import CODES
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="urdu",
    title="URDU (Latif et al., Cross Lingual Speech Emotion Recognition: Urdu vs. Western Languages, FIT 2018)",
    language="ur",
    speakers=38,
    hours=0.28,
    labels=("anger", "happiness", "neutral", "sadness"),
    licence="for research",
    where="siddiquelatif/URDU-Dataset on GitHub",
    layout="Angry/SM1_F10_A010.wav, with folders Angry, Happy, Neutral, Sad (WAV or FLAC)",
    kind="natural",
)

FOLDERS: Final = {"Angry": "A", "Happy": "H", "Neutral": "N", "Sad": "S"}

# Gender and number of the speaker, number of the file of this speaker, emotion and running number.
_NAME: Final = re.compile(r"(?P<speaker>S(?P<gender>[MF])\d+)_F\d+_(?P<emotion>[AHNS])\d+")


def read(root: Path) -> Manifest:
    """Read the four folders of emotions below ``root``; durations come from the headers.

    Raises:
        SertuneError: no such folder, none of the four folders, or a file whose name doesn't fit.
    """
    rows = []
    for file in _audio_files(root):
        match = _NAME.fullmatch(file.stem)
        if match is None or match["emotion"] != FOLDERS[file.parent.name]:
            code = FOLDERS[file.parent.name]
            raise SertuneError(
                f"{file}: not named as URDU names the files of {file.parent.name} (e.g. SM1_F10_{code}010); "
                "move it out of the folder"
            )
        rows.append(
            {
                "id": file.stem,
                "file": str(file),
                "speaker": match["speaker"],
                "gender": match["gender"],
                "language": INFO.language,
                "emotion": CODES["urdu"][match["emotion"]],
            }
        )
    frame = pd.DataFrame(rows)
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def _audio_files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise SertuneError(f"{root}: no such folder, expected URDU with {INFO.layout}")
    files = [
        file
        for name in FOLDERS
        if (root / name).is_dir()
        for file in sorted((root / name).iterdir())
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
    ]
    if not files:
        raise SertuneError(f"no URDU in {root}: looked for files like {root / 'Angry' / 'SM1_F10_A010.wav'}")
    return files


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 4 speakers x 4 emotions of noisy tones in URDU's layout, 44.1 kHz, mono."""
    rng = np.random.default_rng(seed)
    for j, (name, code) in enumerate(FOLDERS.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i, speaker in enumerate(("SM1", "SM2", "SF1", "SF10")):
            time = np.arange(int(44100 * rng.uniform(0.3, 0.6))) / 44100
            tone = 0.2 * np.sin(2 * np.pi * (110 + 50 * i + 25 * j) * time)
            noise = 0.01 * rng.standard_normal(len(time))
            stem = f"{speaker}_F{j + 1}_{code}{i + 1:03d}"
            soundfile.write(root / name / f"{stem}.wav", tone + noise, 44100, subtype="PCM_16")
    (root / "Angry" / "._SM1_F1_A001.wav").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
