"""MuSE, a Multimodal Dataset of Stressed Emotion: monologues, rated sentence by sentence.

What is expected, as code that reads the dataset describes it (jtavernor/SER-Datasets, of the authors of arXiv
2408.11956); its folders are not named alike everywhere, so both are found by name, wherever they lie:

- the table ``Emotion data from crowdsourcing (...).csv``, in ``SurveyInformation`` or ``Survey Information (Questions,
  Data etc)``, with ``Sentence_name`` (``01_DR-100_0097_1_sentence_1.wav``, the speaker first), ``Gender``, ``Type`` (S,
  stressed, or NS), ``Ques_Type``, ``Activation_Mean``, ``Valence_Mean``, the single ratings ``Activation_Annotation``
  and ``Valence_Annotation`` as ``3;4;2``, and the speaker's own rating of the monologue, ``S_Activation`` and
  ``S_Valence``; from 1 to 9;
- the audio, one file per sentence, in folders such as ``Stressed/Audio/Stressed Question Monologue Audio``.

Choices of this reader:

- the table does not say whose a rating is: raters are named by their place in the row, ``place-1`` to ``place-8``, and
  one name is **not** one person. The speaker's own is by ``self-01``;
- ratings made with the sentences before (columns ``C_...``) are another condition and not read;
- a rating that is empty or outside 1..9 is missing.
"""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import (
    MAC_LEFTOVER,
    files_below,
    long_ratings,
    need_folder,
    nothing_found,
    one_each,
    read_table,
    write_tone,
)
from sertune.data.durations import file_seconds
from sertune.data.manifest import Manifest, Scheme
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="muse",
    title="MuSE, a Multimodal Dataset of Stressed Emotion (Jaiswal et al., LREC 2020)",
    language="en",
    speakers=28,
    hours=10,
    labels=("arousal", "valence"),
    licence="for research, on request",
    where="University of Michigan",
    layout="SurveyInformation/Emotion data from crowdsourcing (...).csv and one WAV file per sentence below the folder",
    kind="elicited",
    raters=8,
    ratings="activation and valence by about eight crowd workers per sentence, without names, and by the speakers",
    request="ask its authors at the University of Michigan for the dataset; unpack it, and name its folder",
)

SCALE: Final = (1.0, 9.0)
CONDITIONS: Final = {"S": "stressed", "NS": "not stressed"}

_TABLE: Final = "emotion data from crowdsourcing"
_DIMENSIONS: Final = {"Activation": "arousal", "Valence": "valence"}
_NAME: Final = re.compile(r"(?P<session>(?P<speaker>\d+)_.+)_(?P<question>\d+)_sentence_\d+")


def read(root: Path) -> Manifest:
    """Read the dataset below ``root``.

    A sentence whose audio is missing stays, without a duration; audio that is not in the table is passed over. Beside
    the usual columns: ``condition`` (`CONDITIONS`) and ``question`` (the kind of question, where the table says it).
    ``session`` is the recording.

    Raises:
        SertuneError: no such folder, no MuSE in it, no audio, or a table with a name or rating that can't be read.
    """
    need_folder(root, INFO)
    tables = [file for file in files_below(root, (".csv",)) if file.name.lower().startswith(_TABLE)]
    if not tables:
        raise nothing_found(root, INFO, [root / "SurveyInformation" / "Emotion data from crowdsourcing (...).csv"])
    path = tables[0]
    table = read_table(path, ["Sentence_name", "Activation_Mean", "Valence_Mean"])
    ids = table["Sentence_name"].str.strip().str.removesuffix(".wav")
    names = [_name(text, path, i) for i, text in enumerate(ids)]
    wanted = set(ids)
    audio = one_each((file.stem, file) for file in files_below(root, (".wav",)) if file.stem in wanted)
    if not audio:
        raise SertuneError(
            f"{root}: half a corpus: none of the {len(ids)} sentences of {path.name} is there as {ids.iat[0]}.wav"
        )
    somewhere = next(iter(audio.values())).parent
    frame = pd.DataFrame(
        {
            "id": ids,
            "file": [str(audio.get(name, somewhere / f"{name}.wav")) for name in ids],
            "speaker": [match["speaker"] for match in names],
            "gender": _column(table, "Gender"),
            "language": INFO.language,
            "session": [match["session"] for match in names],
            "arousal": table["Activation_Mean"],
            "valence": table["Valence_Mean"],
            "condition": _column(table, "Type").map(lambda code: CONDITIONS.get(code.strip().upper(), code) or None),
            "question": _column(table, "Ques_Type").map(lambda text: text or None),
        }
    )
    frame["duration"] = file_seconds(frame["file"].tolist())
    wide = _ratings(table, frame, path)
    schemes = {name: Scheme(low=SCALE[0], high=SCALE[1]) for name in _DIMENSIONS.values()}
    return Manifest.of(INFO.name, frame, schemes, long_ratings(wide) if len(wide) else None)


def _name(text: str, path: Path, i: int) -> re.Match[str]:
    match = _NAME.fullmatch(text)
    if match is None:
        raise SertuneError(
            f"{path}, line {i + 2}: {text!r} is no name of a sentence (e.g. 01_DR-100_0097_1_sentence_1.wav)"
        )
    return match


def _column(table: pd.DataFrame, name: str) -> "pd.Series[Any]":
    return table[name].astype(object) if name in table else pd.Series([""] * len(table), dtype=object)


def _ratings(table: pd.DataFrame, frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """One row per rater and sentence; workers by their place in the row, speakers by name."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for column, attribute in _DIMENSIONS.items():
        own, others = _column(table, f"S_{column}"), _column(table, f"{column}_Annotation")
        for i, (utterance, speaker) in enumerate(zip(frame["id"], frame["speaker"], strict=True)):
            places = enumerate(str(others.iat[i]).split(";"), start=1)
            values = [(f"place-{place}", text) for place, text in places]
            for rater, text in (*values, (f"self-{speaker}", str(own.iat[i]))):
                row = rows.setdefault((utterance, rater), {"utterance": utterance, "rater": rater})
                row[attribute] = _number(text, f"{path}, line {i + 2}, {column}")
    return pd.DataFrame(rows.values(), columns=["utterance", "rater", *_DIMENSIONS.values()])


def _number(text: str, where: str) -> float:
    if not text.strip():
        return np.nan
    try:
        number = float(text)
    except ValueError as error:
        raise SertuneError(f"{where}: expected ratings such as 3;4;2, found {text!r}") from error
    return number if SCALE[0] <= number <= SCALE[1] else np.nan


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 4 speakers, two monologues of 4 sentences each, 44.1 kHz, mono.

    With a sentence without audio, audio without labels, an empty rating, Windows line ends and a byte-order mark.
    """
    rng = np.random.default_rng(seed)
    folders = {
        "S": root / "Stressed" / "Audio" / "Stressed Question Monologue Audio",
        "NS": root / "NotStressed" / "Audio" / "Non Stressed Question Monologue Audio [Sentence Split]",
    }
    rows = []
    for s in range(4):
        for m, (kind, folder) in enumerate(folders.items()):
            for i in range(4):
                name = f"{s + 1:02d}_DR-100_{90 + 2 * s + m:04d}_{2 * m + 1}_sentence_{i + 1}.wav"
                active, valence = rng.integers(1, 7, size=8), rng.integers(3, 9, size=8)
                if (s, m, i) != (3, 1, 3):
                    write_tone(folder / name, 0.3 + 0.05 * i, 44100, 110 + 40 * s + 10 * i, rng)
                texts = [";".join(map(str, active)), ";".join(map(str, valence))]
                rows.append(
                    {
                        "Sentence_name": name,
                        "Duration": 0.3 + 0.05 * i,
                        "Gender": "FM"[s % 2],
                        "Type": kind,
                        "Ques_Type": ("Positive", "Negative")[m],
                        "Activation_Mean": active.mean(),
                        "Valence_Mean": valence.mean(),
                        "Activation_Annotation": texts[0],
                        "Valence_Annotation": texts[1],
                        "S_Activation": "" if (s, m) == (2, 1) else 4,
                        "S_Valence": 6,
                    }
                )
    write_tone(folders["S"] / "01_DR-100_0090_1_sentence_99.wav", 0.3, 44100, 110, rng)
    (folders["S"] / "._01_DR-100_0090_1_sentence_1.wav").write_bytes(MAC_LEFTOVER)
    path = root / "SurveyInformation" / "Emotion data from crowdsourcing (C is when annotators had access to all.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xef\xbb\xbf" + pd.DataFrame(rows).to_csv(index=False, lineterminator="\r\n").encode())
