"""SAVEE, the Surrey Audio-Visual Expressed Emotion database: its audio."""

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

SPEAKERS: Final = ("DC", "JE", "JK", "KL")

INFO: Final = CorpusInfo(
    name="savee",
    title="SAVEE, Surrey Audio-Visual Expressed Emotion (Haq and Jackson, AVSP 2009)",
    language="en",
    speakers=4,
    hours=0.51,
    labels=("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    licence="for research, after registration",
    where="University of Surrey, kahlan.eps.surrey.ac.uk/savee",
    layout="AudioData/DC/a01.wav, or DC_a01.wav in one folder",
    request="register on the page of the corpus, then unpack AudioData.zip into the folder",
)

PROTOCOLS: Final = (
    Published(
        "savee-loso",
        "EmoBox, arXiv 2406.07162",
        "leave one speaker out: 4 folds, each tests one speaker. The choice of dev is ours: the next speaker in turn; "
        "the other two train",
        leave_one_speaker_out,
    ),
)

# Speaker, where the folder doesn't tell; emotion; number of the sentence.
_NAME: Final = re.compile(r"(?:(?P<speaker>DC|JE|JK|KL)_?)?(?P<emotion>sa|su|[adfhn])(?P<number>\d\d)")


def read(root: Path) -> Manifest:
    """Read the files anywhere below ``root``; a second copy of a file is passed over.

    Ids are ``DC_a01``, as in the copies that have all files in one folder. ``text`` is the code of the sentence,
    ``a01``, the same for all speakers; three of the sentences are common to all emotions, under other codes.

    Raises:
        SertuneError: no such folder, no file of SAVEE in it, an audio file that is not named as SAVEE's are or of
            which the speaker is not known, or two different files of one utterance.
    """
    need_folder(root, INFO)
    files = files_below(root)
    if not any(_NAME.fullmatch(file.stem) for file in files):
        raise nothing_found(root, INFO, ["files like AudioData/DC/a01.wav or DC_a01.wav"])
    rows = []
    for name, file in one_each((_id(file), file) for file in files).items():
        speaker, text = name.split("_")
        rows.append(
            {
                "id": name,
                "file": str(file),
                "speaker": speaker,
                "gender": "male",
                "language": INFO.language,
                "text": text,
                "emotion": CODES["savee"][text[:-2]],
            }
        )
    frame = pd.DataFrame(rows)
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def _id(file: Path) -> str:
    match = _NAME.fullmatch(file.stem)
    speaker = match and (match["speaker"] or file.parent.name.upper())
    if match is None or speaker not in SPEAKERS:
        raise SertuneError(
            f"{file}: not named as SAVEE names its files (e.g. DC/a01.wav or DC_a01.wav: speaker {', '.join(SPEAKERS)}"
            f", one of {', '.join(CODES['savee'])}, two digits); move it out of the folder"
        )
    return f"{speaker}_{match['emotion']}{match['number']}"


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 4 speakers x 7 emotions, 44.1 kHz, 16 bit, mono, with Info.txt and what macOS leaves."""
    rng = np.random.default_rng(seed)
    folder = root / "AudioData"
    for i, speaker in enumerate(SPEAKERS):
        for j, code in enumerate(CODES["savee"]):
            write_tone(
                folder / speaker / f"{code}{1 + i:02d}.wav", rng.uniform(0.2, 0.3), 44100, 90 + 30 * i + 15 * j, rng
            )
    (folder / "Info.txt").write_bytes(b"'DC', 'JE', 'JK' and 'KL' are four male speakers\r\n")
    (folder / "DC" / "._a01.wav").write_bytes(MAC_LEFTOVER)
