"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song: its speech."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import MAC_LEFTOVER, files_below, need_folder, nothing_found, one_each, write_tone
from sertune.data.durations import file_seconds
from sertune.data.labels import CODES
from sertune.data.manifest import Manifest
from sertune.data.protocols import Fold, Published, fold_by
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="ravdess",
    title="RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song (Livingstone and Russo, PLoS ONE 2018)",
    language="en",
    speakers=24,
    hours=1.5,
    labels=("anger", "calm", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    licence="CC BY-NC-SA 4.0",
    where="Zenodo 1188976, Audio_Speech_Actors_01-24.zip",
    layout="Actor_01/03-01-06-01-02-01-12.wav, at any depth",
)

INTENSITIES: Final = {"01": "normal", "02": "strong"}

# Modality (03: audio alone), channel (01: speech, 02: song), emotion, intensity, statement, repetition, actor.
_NAME: Final = re.compile(
    r"(?P<modality>\d\d)-(?P<channel>\d\d)-(?P<emotion>\d\d)-(?P<intensity>\d\d)-(?P<text>\d\d)-"
    r"(?P<repetition>\d\d)-(?P<actor>\d\d)"
)


def read(root: Path) -> Manifest:
    """Read the speech files anywhere below ``root``; song and the sound of the videos are passed over.

    A second copy of a file is passed over too. ``text`` is the statement (01: kids, 02: dogs); the extra columns are
    ``intensity`` (normal, strong) and ``repetition``. Some of the files have two channels.

    Raises:
        SertuneError: no such folder, no speech file of RAVDESS in it, an audio file that is not named as RAVDESS's
            are, an unknown code of an emotion, or two different files of one name.
    """
    need_folder(root, INFO)
    files = files_below(root)
    if not any(_is_speech(file) for file in files):
        raise nothing_found(root, INFO, ["files like Actor_01/03-01-06-01-02-01-01.wav (03-01: audio, speech)"])
    rows = []
    for name, file in one_each((file.stem, file) for file in files).items():
        match = _NAME.fullmatch(name)
        if match is None or not _known(match):
            raise SertuneError(
                f"{file}: not named as RAVDESS names its files (e.g. 03-01-06-01-02-01-12.wav: modality, channel, "
                "emotion 01 to 08, intensity 01 or 02, statement, repetition, actor); move it out of the folder"
            )
        if not _is_speech(file):
            continue
        rows.append(
            {
                "id": name,
                "file": str(file),
                "speaker": match["actor"],
                "gender": "male" if int(match["actor"]) % 2 else "female",
                "language": INFO.language,
                "text": match["text"],
                "emotion": CODES["ravdess"][match["emotion"]],
                "intensity": INTENSITIES[match["intensity"]],
                "repetition": int(match["repetition"]),
            }
        )
    frame = pd.DataFrame(rows)
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def _is_speech(file: Path) -> bool:
    return file.stem.startswith("03-01-")


def _known(match: "re.Match[str]") -> bool:
    return match["emotion"] in CODES["ravdess"] and match["intensity"] in INTENSITIES


_GROUPS: Final = (
    ("02", "05", "14", "15", "16"),
    ("03", "06", "07", "13", "18"),
    ("10", "11", "12", "19", "20"),
    ("08", "17", "21", "23", "24"),
    ("01", "04", "09", "22"),
)


def _five_folds(frame: pd.DataFrame) -> Sequence[Fold]:
    return [
        fold_by(frame, "speaker", str(i + 1), test=group, dev=_GROUPS[(i + 1) % len(_GROUPS)])
        for i, group in enumerate(_GROUPS)
    ]


PROTOCOLS: Final = (
    Published(
        "ravdess-5fold",
        "Luna-Jimenez et al., Sensors 21(22):7665, 2021",
        "5 folds over actors (test: 2 5 14 15 16; 3 6 7 13 18; 10 11 12 19 20; 8 17 21 23 24; 1 4 9 22). The source "
        "has no dev part: here the group that tests in the next fold is dev, the other three train",
        _five_folds,
    ),
)


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 5 actors, one of each group of the protocol, x 8 emotions as Kaggle's copy has them.

    That is 48 kHz, 16 bit, one file in stereo, every file a second time in another folder, one song, and what macOS
    leaves.
    """
    rng = np.random.default_rng(seed)
    for i, actor in enumerate(("01", "02", "03", "08", "10")):
        for j, emotion in enumerate(CODES["ravdess"]):
            intensity = "02" if (i + j) % 2 and emotion != "01" else "01"  # there is no strong neutral
            name = f"Actor_{actor}/03-01-{emotion}-{intensity}-0{1 + j % 2}-01-{actor}.wav"
            channels = 2 if (actor, emotion) == ("01", "02") else 1
            write_tone(root / name, rng.uniform(0.2, 0.3), 48000, 100 + 40 * i + 20 * j, rng, channels)
            copy = root / "audio_speech_actors_01-24" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((root / name).read_bytes())
    write_tone(root / "Actor_01" / "03-02-03-01-01-01-01.wav", 0.2, 48000, 200, rng)
    (root / "Actor_01" / "._03-01-01-01-01-01-01.wav").write_bytes(MAC_LEFTOVER)
