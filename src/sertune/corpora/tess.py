"""TESS, the Toronto Emotional Speech Set."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import MAC_LEFTOVER, files_below, need_folder, nothing_found, one_each, write_tone
from sertune.data.durations import file_seconds
from sertune.data.labels import CODES
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="tess",
    title="TESS, Toronto Emotional Speech Set (Dupuis and Pichora-Fuller, University of Toronto 2010)",
    language="en",
    speakers=2,
    hours=1.6,
    labels=("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    licence="CC BY-NC-ND 4.0",
    where="Borealis, doi:10.5683/SP2/E8H2MF",
    layout="OAF_angry/OAF_back_angry.wav, at any depth, or all files in one folder",
)

AGES: Final = {"OAF": 64, "YAF": 26}
"""The two actresses: the older adult female and the younger one."""

# Actress, word, emotion. One file of the corpus lacks a letter: OA_bite_neutral.
_NAME: Final = re.compile(r"(?P<speaker>OAF|OA|YAF)_(?P<text>[a-z'-]+)_(?P<emotion>[a-z]+)", re.IGNORECASE)


def read(root: Path) -> Manifest:
    """Read the files anywhere below ``root``; all is in their names, the folders don't matter.

    A second copy of a file is passed over. Ids are as the corpus names its files, but for ``OA_bite_neutral``, which
    is read as ``OAF_bite_neutral``. ``text`` is the word; ``age`` is an extra column. With two speakers there can be
    no split by speakers with three parts.

    Raises:
        SertuneError: no such folder, no file of TESS in it, an audio file that is not named as TESS's are, an unknown
            emotion, or two different files of one name.
    """
    need_folder(root, INFO)
    files = files_below(root)
    if not any(_NAME.fullmatch(file.stem) for file in files):
        raise nothing_found(root, INFO, ["files like OAF_angry/OAF_back_angry.wav"])
    rows = []
    for name, file in one_each((_id(file), file) for file in files).items():
        speaker, text, emotion = name.split("_")
        rows.append(
            {
                "id": name,
                "file": str(file),
                "speaker": speaker,
                "gender": "female",
                "language": INFO.language,
                "text": text,
                "emotion": CODES["tess"][emotion],
                "age": AGES[speaker],
            }
        )
    frame = pd.DataFrame(rows)
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def _id(file: Path) -> str:
    match = _NAME.fullmatch(file.stem)
    if match is None or match["emotion"].lower() not in CODES["tess"]:
        raise SertuneError(
            f"{file}: not named as TESS names its files (e.g. OAF_back_angry.wav: OAF or YAF, word, one of "
            f"{', '.join(CODES['tess'])}); move it out of the folder"
        )
    speaker = "OAF" if match["speaker"].upper() == "OA" else match["speaker"].upper()
    return f"{speaker}_{match['text'].lower()}_{match['emotion'].lower()}"


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 2 actresses x 7 emotions x 2 words, 24,414 Hz, 16 bit, mono.

    Names of folders are written in several ways, one file is misnamed, one lies in two folders, and there is what
    macOS leaves, all as in copies of the corpus.
    """
    rng = np.random.default_rng(seed)
    folders = {
        "OAF": {"fear": "OAF_Fear", "ps": "OAF_Pleasant_surprise", "sad": "OAF_Sad"},
        "YAF": {"ps": "YAF_pleasant_surprised"},
    }
    for i, (speaker, named) in enumerate(folders.items()):
        for j, emotion in enumerate(CODES["tess"]):
            folder = root / named.get(emotion, f"{speaker}_{emotion}")
            for k, word in enumerate(("back", "bite")):
                misnamed = (speaker, word, emotion) == ("OAF", "bite", "neutral")
                name = f"{'OA' if misnamed else speaker}_{word}_{emotion}.wav"
                write_tone(folder / name, rng.uniform(0.2, 0.3), 24414, 120 + 60 * i + 20 * j + 5 * k, rng)
    copy = root / "TESS Toronto emotional speech set data" / "OAF_angry" / "OAF_back_angry.wav"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes((root / "OAF_angry" / "OAF_back_angry.wav").read_bytes())
    (root / "OAF_angry" / "._OAF_back_angry.wav").write_bytes(MAC_LEFTOVER)
