"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture Database.

What is read: the audio of the turns and ``dialog/EmoEvaluation/*.txt``, which hold the consensus of each turn and every
single rating::

    [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
    C-E2:	Neutral;	()
    C-F1:	Neutral;	(curious)
    A-E3:	val 3; act 2; dom  2;	()

The numbers of the first line are valence, activation and dominance, the mean of the evaluators; the speaker is the
letter before the turn's number, not the F or M of ``Ses01F``, who wore the markers. The folders ``Categorical``,
``Attribute`` and ``Self-evaluation`` hold the same ratings evaluator by evaluator and are not needed.

Choices of this reader:

- ``xxx`` (no majority) is a missing emotion; ``oth`` is the label other;
- raters are named as in the files, ``C-E2`` for categories and ``A-E3`` for dimensions, as nothing says whether an
  evaluator has one number in both. An actor's rating of the own turn (``C-F1``, ``A-M1``) is by ``self-Ses01F``; the
  consensus is that of the evaluators alone;
- where an evaluator gives several labels for a turn, the first listed is kept; a word of the evaluator's own is other;
- a rating outside 1..5, or an empty one, is missing; where an evaluator's was outside, the consensus of this dimension
  is the mean of those left;
- a rater twice for a turn: `sertune.corpora.layout.long_ratings`.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import (
    MAC_LEFTOVER,
    files_below,
    leave_one_session_out,
    long_ratings,
    need_folder,
    nothing_found,
    one_each,
    read_text,
    write_tone,
)
from sertune.data.durations import file_seconds
from sertune.data.labels import CATEGORIES, CODES, DIMENSIONS, canonical
from sertune.data.manifest import Manifest, Scheme
from sertune.data.protocols import Fold, Published, fold_by
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="iemocap",
    title="IEMOCAP, Interactive Emotional Dyadic Motion Capture Database (Busso et al., LREV 2008)",
    language="en",
    speakers=10,
    hours=12,
    labels=(
        "anger",
        "disgust",
        "excitement",
        "fear",
        "frustration",
        "happiness",
        "neutral",
        "other",
        "sadness",
        "surprise",
        "arousal",
        "valence",
        "dominance",
    ),
    licence="for research, after a signed release form",
    where="University of Southern California, sail.usc.edu/iemocap",
    layout="IEMOCAP_full_release/Session1..5 or the Session folders, each with sentences/wav and dialog/EmoEvaluation",
    kind="acted",
    raters=6,
    ratings="categories and dimensions by evaluators (C-E1, A-E3 ...), some actors of their own turns (self-Ses01F)",
    request="ask USC's Signal Analysis and Interpretation Laboratory for the release; unpack it, and name its folder",
)

SESSIONS: Final = ("Session1", "Session2", "Session3", "Session4", "Session5")
SCALE: Final = (1.0, 5.0)
RELEASE: Final = "IEMOCAP_full_release"

_TURN: Final = re.compile(r"\[\s*[\d.]+\s*-\s*[\d.]+\s*\]\s+(?P<turn>\S+)\s+(?P<emotion>\S+)\s+\[(?P<values>[^\]]*)\]")
_RATING: Final = re.compile(r"(?P<kind>[CA])-(?P<who>[EFM])(?P<number>\w*)\s*:\s*(?P<rest>.*)")
_VALUE: Final = re.compile(r"(val|act|dom)\s*(\d+(?:\.\d*)?)")
_NAME: Final = re.compile(
    r"(?P<dialogue>Ses0(?P<session>\d)[FM]_(?:(?P<impro>impro)\w*|(?P<script>script\d+_\d+)\w*?))_(?P<speaker>[FM])\w+"
)
_DIMENSION: Final = {"val": "valence", "act": "arousal", "dom": "dominance"}


def read(root: Path) -> Manifest:
    """Read the release: ``root`` is its folder, the one above, or any with the folders Session1..5.

    A turn whose audio is missing stays, without a duration; audio of a turn that is not in its dialogue's label file is
    passed over. Beside the usual columns: ``style`` (improvised or scripted) and ``dialogue``. ``text`` names the
    script of scripted dialogues, each of which was played in every session.

    Raises:
        SertuneError: no such folder, no IEMOCAP in it, dialogues with audio but without label file, or a label file
            with a line that can't be understood, an unknown emotion or a rating before the first turn.
    """
    need_folder(root, INFO)
    release = _release(root)
    turns: list[dict[str, Any]] = []
    ratings: list[dict[str, Any]] = []
    for session in SESSIONS:
        folder = release / session
        audio = one_each((file.stem, file) for file in files_below(folder / "sentences" / "wav", (".wav",)))
        labelled = _label_files(folder)
        _need_labels(folder, audio, labelled)
        for file in labelled.values():
            found, rated = _dialogue(file)
            for turn in found:
                expected = folder / "sentences" / "wav" / turn["dialogue"] / f"{turn['id']}.wav"
                turn["file"] = str(audio.get(turn["id"], expected))
            turns += found
            ratings += rated
    if not turns:
        raise nothing_found(root, INFO, [release / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"])
    frame = pd.DataFrame(turns)
    frame["duration"] = file_seconds(frame["file"].tolist())
    wide = pd.DataFrame(ratings, columns=["utterance", "rater", "emotion", *DIMENSIONS])
    _mend_slips(frame, wide)
    schemes = {"emotion": Scheme(labels=tuple(label for label in INFO.labels if label in CATEGORIES))}
    schemes |= {name: Scheme(low=SCALE[0], high=SCALE[1]) for name in DIMENSIONS}
    return Manifest.of(INFO.name, frame, schemes, long_ratings(wide) if len(wide) else None)


def _release(root: Path) -> Path:
    tried = [root, root / RELEASE, root / RELEASE / RELEASE]
    for folder in tried:
        if any((folder / session).is_dir() for session in SESSIONS):
            return folder
    raise nothing_found(root, INFO, [folder / "Session1" / "dialog" / "EmoEvaluation" for folder in tried[:2]])


def _label_files(session: Path) -> dict[str, Path]:
    """Dialogue -> its label file; the folders beside them hold others."""
    folder = session / "dialog" / "EmoEvaluation"
    return {file.stem: file for file in files_below(folder, (".txt",)) if file.parent == folder and _is_dialogue(file)}


def _is_dialogue(file: Path) -> bool:
    return _NAME.fullmatch(f"{file.stem}_F000") is not None


def _need_labels(session: Path, audio: dict[str, Path], labelled: dict[str, Path]) -> None:
    heard = sorted({match["dialogue"] for name in audio if (match := _NAME.fullmatch(name))})
    lacking = [dialogue for dialogue in heard if dialogue not in labelled]
    if lacking:
        expected = session / "dialog" / "EmoEvaluation" / f"{lacking[0]}.txt"
        raise SertuneError(
            f"{session}: half a corpus: {len(lacking)} of {len(heard)} dialogues have audio but no labels, the first "
            f"is {lacking[0]}; expected {expected}; unpack the release again"
        )


def _dialogue(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Turns and ratings of one label file."""
    turns: list[dict[str, Any]] = []
    ratings: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        text, where = line.strip(), f"{file}, line {number}"
        if text.startswith("["):
            turns.append(_turn(text, where))
        elif match := _RATING.fullmatch(text):
            if not turns:
                raise SertuneError(f"{where}: the rating {text!r} stands before the first turn, so it rates nothing")
            ratings.append(_rating(match, turns[-1]["id"]))
    return turns, ratings


def _turn(text: str, where: str) -> dict[str, Any]:
    match = _TURN.match(text)
    values = match["values"].split(",") if match else []
    name = _NAME.fullmatch(match["turn"]) if match else None
    if match is None or name is None or len(values) != len(_DIMENSION):
        raise SertuneError(
            f"{where}: expected a turn such as '[6.2901 - 8.2357] Ses01F_impro01_F000 neu [2.5000, 2.5000, 2.5000]', "
            f"found {text!r}"
        )
    code = match["emotion"].lower()
    if code != "xxx" and code not in CODES["iemocap"]:
        known = ", ".join((*CODES["iemocap"], "xxx"))
        raise SertuneError(f"{where}: unknown emotion {match['emotion']!r} (known: {known})")
    return {
        "id": match["turn"],
        "speaker": f"Ses0{name['session']}{name['speaker']}",
        "gender": name["speaker"],
        "language": INFO.language,
        "session": f"Session{name['session']}",
        "text": name["script"],
        "emotion": CODES["iemocap"].get(code),
        "style": "improvised" if name["impro"] else "scripted",
        "dialogue": name["dialogue"],
        **{_DIMENSION[key]: _number(value) for key, value in zip(("val", "act", "dom"), values, strict=True)},
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _rating(match: re.Match[str], turn: str) -> dict[str, Any]:
    own = match["who"] != "E"
    rater = f"self-{turn[:5]}{match['who']}" if own else f"{match['kind']}-E{match['number']}"
    row: dict[str, Any] = {"utterance": turn, "rater": rater, "emotion": None}
    rest = match["rest"].partition("(")[0]
    if match["kind"] == "C":
        word = next((part.strip() for part in rest.split(";") if part.strip()), "")
        row["emotion"] = _emotion(word) if word else None
    else:
        row |= {_DIMENSION[key]: float(value) for key, value in _VALUE.findall(rest)}
    return row


def _emotion(word: str) -> str:
    name = "neutral" if word.lower() == "neutral state" else canonical(word)
    return name if name in CATEGORIES else "other"


def _mend_slips(frame: pd.DataFrame, wide: pd.DataFrame) -> None:
    """Ratings outside the scale are missing, and where an evaluator's was, the consensus is the mean of those left."""
    other = wide["rater"].str.startswith("A-E")
    for name in DIMENSIONS:
        wide[name] = wide[name].astype(np.float64)
        outside = wide[name].notna() & ~wide[name].between(*SCALE)
        wide.loc[outside, name] = np.nan
        touched = frame["id"].isin(wide.loc[outside & other, "utterance"])
        if touched.any():
            left = wide[other].groupby("utterance")[name].mean()
            frame.loc[touched, name] = frame.loc[touched, "id"].map(left)


def _speaker_folds(frame: pd.DataFrame) -> list[Fold]:
    """Each speaker tests once, the other one of the same session chooses."""
    pairs = [
        (f"Ses0{session[-1]}{who}", f"Ses0{session[-1]}{other}") for session in SESSIONS for who, other in ("FM", "MF")
    ]
    speakers = [test for test, _ in pairs]
    return [
        fold_by(frame, "speaker", test, test=[test], dev=[dev], train=[s for s in speakers if s not in (test, dev)])
        for test, dev in pairs
    ]


PROTOCOLS: Final = (
    Published(
        "iemocap-5fold",
        "arXiv 2306.05350",
        "five folds by session: one session tests, the last of the other four is the dev set (session 5; session 4 "
        "where 5 tests), three train",
        partial(leave_one_session_out, sessions=SESSIONS),
        label_map="4class",
    ),
    Published(
        "iemocap-10fold",
        "usual practice, without one source",
        "ten folds by speaker: one speaker tests, the other one of the same session is the dev set, the other four "
        "sessions train",
        _speaker_folds,
        label_map="4class",
    ),
)


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 5 sessions, each with an improvised and a scripted dialogue of 4 turns; 16 kHz, mono.

    With macOS's ``._`` files, Windows line ends, a byte-order mark, turns without majority, evaluators with two labels
    and an evaluator who rated a turn twice.
    """
    rng = np.random.default_rng(seed)
    release = root / RELEASE
    rare = ("oth", "fea", "sur", "dis", "exc")
    for session in SESSIONS:
        folder, number = release / session, session[-1]
        for dialogue, codes in (
            (f"Ses0{number}F_impro01", ("neu", "ang", "xxx", "sad")),
            (f"Ses0{number}M_script01_1", ("hap", "fru", "exc", rare[int(number) - 1])),
        ):
            blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
            words = []
            for i, code in enumerate(codes):
                turn = f"{dialogue}_{'FM'[i % 2]}{i // 2:03d}"
                blocks.append(_example_block(turn, code, i))
                words.append(f"{turn} [{2 * i:08.4f}-{2 * i + 0.3:08.4f}]: Excuse me.")
                pitch = 100 + 20 * int(number) + 120 * (i % 2 == 0)
                write_tone(folder / "sentences" / "wav" / dialogue / f"{turn}.wav", 0.3 + 0.05 * i, 16000, pitch, rng)
            labels = folder / "dialog" / "EmoEvaluation"
            for below in ("Attribute", "Categorical", "Self-evaluation"):
                (labels / below).mkdir(parents=True, exist_ok=True)
            (labels / "Categorical" / f"{dialogue}_e2_cat.txt").write_text(f"{dialogue}_F000 :Neutral state; ()\n")
            text = "\n".join(blocks) + "\n"
            data = text.replace("\n", "\r\n").encode() if number == "2" else text.encode()
            (labels / f"{dialogue}.txt").write_bytes(b"\xef\xbb\xbf" + data if number == "3" else data)
            (labels / f"._{dialogue}.txt").write_bytes(MAC_LEFTOVER)
            (folder / "dialog" / "transcriptions").mkdir(parents=True, exist_ok=True)
            (folder / "dialog" / "transcriptions" / f"{dialogue}.txt").write_text("\n".join(words) + "\n")
            wav = folder / "sentences" / "wav" / dialogue
            (wav / f"._{dialogue}_F000.wav").write_bytes(MAC_LEFTOVER)


def _example_block(turn: str, code: str, i: int) -> str:
    """The lines of one turn; turn number 1 has an evaluator with two labels and an actor's own ratings."""
    name = CODES["iemocap"].get(code, "neutral")
    word = {"excitement": "Excited"}.get(name, name.capitalize())
    own = turn[-4]
    lines = [
        f"[{2 * i:.4f} - {2 * i + 0.3:.4f}]\t{turn}\t{code}\t[2.5000, {2 + i / 2:.4f}, 3.0000]",
        f"C-E2:\t{word};\t()",
        f"C-E3:\t{word}; Anger;\t(quiet)" if i == 1 else f"C-E3:\t{word};\t()",
        f"C-E4:\t{'Other' if code == 'xxx' else word};\t(unsure)",
        f"A-E3:\tval 3; act {2 + i // 2}; dom  3;\t()",
        f"A-E4:\tval 2; act {2 + (i + 1) // 2}; dom  3;\t()",
    ]
    if i == 0:
        lines += [f"C-E4:\t{word};\t()"]
    if i == 1:
        lines += [f"C-{own}1:\t{word};\t()", f"A-{own}1:\tval 1; act 5; dom  ;\t(threatening)"]
    return "\n".join(lines) + "\n"
