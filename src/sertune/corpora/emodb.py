"""EmoDB, the Berlin Database of Emotional Speech."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import soundfile

from sertune.corpora.info import CorpusInfo
from sertune.data.audio import EXTENSIONS, header_seconds
from sertune.data.labels import CODES
from sertune.data.manifest import Manifest
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
                "duration": header_seconds(file),
                "speaker": match["speaker"],
                "gender": GENDERS.get(match["speaker"]),
                "language": INFO.language,
                "text": match["text"],
                "emotion": CODES["emodb"][match["emotion"]],
            }
        )
    return Manifest.of(INFO.name, pd.DataFrame(rows))


def _audio_files(folder: Path, root: Path) -> list[Path]:
    if not root.is_dir():
        raise SertuneError(f"{root}: no such folder, expected EmoDB with {INFO.layout}")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
    if not any(_NAME.fullmatch(file.stem) for file in files):
        raise SertuneError(f"no EmoDB in {root}: looked for files like {folder / '03a01Fa.wav'}")
    return files


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
