"""EMOVO, an Italian emotional speech database."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import (
    MAC_LEFTOVER,
    files_below,
    leave_one_speaker_out,
    need_folder,
    nothing_found,
    one_each,
    write_tone,
)
from sertune.data.durations import file_seconds
from sertune.data.labels import CODES
from sertune.data.manifest import Manifest
from sertune.data.protocols import Published
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="emovo",
    title="EMOVO, an Italian Emotional Speech Database (Costantini et al., LREC 2014)",
    language="it",
    speakers=6,
    hours=0.5,
    labels=("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    licence="for research",
    where="Fondazione Ugo Bordoni, voice.fub.it/activities/corpora/emovo",
    layout="f1/dis-f1-b1.wav, at any depth",
)

PROTOCOLS: Final = (
    Published(
        "emovo-loso",
        "EmoBox, arXiv 2406.07162",
        "leave one speaker out: 6 folds, each tests one speaker. The choice of dev is ours: the next speaker in turn; "
        "the other four train",
        leave_one_speaker_out,
    ),
)

# Emotion, speaker, sentence (b: short, l: long, n: nonsense, d: question).
_NAME: Final = re.compile(r"(?P<emotion>[a-z]{3})-(?P<speaker>(?P<gender>[fm])[1-3])-(?P<text>[bldn]\d)", re.IGNORECASE)


def read(root: Path) -> Manifest:
    """Read the files anywhere below ``root``; a second copy of a file is passed over. ``text`` is the sentence, ``b1``.

    Raises:
        SertuneError: no such folder, no file of EMOVO in it, an audio file that is not named as EMOVO's are, an
            unknown code of an emotion, or two different files of one name.
    """
    need_folder(root, INFO)
    files = files_below(root)
    if not any(_NAME.fullmatch(file.stem) for file in files):
        raise nothing_found(root, INFO, ["files like f1/dis-f1-b1.wav"])
    rows = []
    for name, file in one_each((file.stem.lower(), file) for file in files).items():
        match = _NAME.fullmatch(name)
        if match is None or match["emotion"] not in CODES["emovo"]:
            raise SertuneError(
                f"{file}: not named as EMOVO names its files (e.g. dis-f1-b1.wav: one of {', '.join(CODES['emovo'])}, "
                "speaker f1 to m3, sentence); move it out of the folder"
            )
        rows.append(
            {
                "id": name,
                "file": str(file),
                "speaker": match["speaker"],
                "gender": match["gender"],
                "language": INFO.language,
                "text": match["text"],
                "emotion": CODES["emovo"][match["emotion"]],
            }
        )
    frame = pd.DataFrame(rows)
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 6 speakers x 7 emotions, 48 kHz, 16 bit, two channels, with what macOS leaves."""
    rng = np.random.default_rng(seed)
    for i, speaker in enumerate(("f1", "f2", "f3", "m1", "m2", "m3")):
        for j, code in enumerate(CODES["emovo"]):
            name = f"{code}-{speaker}-{('b1', 'l1', 'n1', 'd1')[(i + j) % 4]}.wav"
            write_tone(root / speaker / name, rng.uniform(0.2, 0.3), 48000, 100 + 25 * i + 15 * j, rng, channels=2)
    (root / "f1" / "._dis-f1-b1.wav").write_bytes(MAC_LEFTOVER)
