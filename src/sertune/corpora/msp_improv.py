"""MSP-Improv, emotional improvisations of pairs of actors.

What is read: the audio, named ``MSP-IMPROV-S01A-F01-P-FM01.wav`` (sentence 01 in the scenario of Anger, speaker F01,
who is the woman of session 1, type of recording P), and the evaluation file (``Evalution.txt``, as the release spells
it, or ``Evaluation.txt``) with the consensus of each turn and every worker's rating::

    UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.200000; V:3.000000; D:NaN ; N:4.000000;
    A1B2C3D4; Neutral; Neutral,Concerned; A:3.000000; V:3.000000; D:NaN; N:4.000000;

Choices of this reader:

- **activation is turned round** (6 - x), consensus and ratings: the file counts from 1, most active, to 5, as the code
  of arXiv 2408.11956's authors says and does; valence and dominance are as in the file;
- X (no agreement) is a missing emotion; O, and any word beside the four, is other; secondary emotions are not read;
- a dimension that is ``NaN`` or outside 1..5 in a rating is missing;
- a worker twice for a turn: `sertune.corpora.layout.long_ratings`; the consensus stays as published.
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
    name="msp_improv",
    title="MSP-Improv, an acted corpus of dyadic interactions (Busso et al., IEEE TAFFC 2017)",
    language="en",
    speakers=12,
    hours=9,
    labels=("anger", "happiness", "neutral", "other", "sadness", "arousal", "valence", "dominance"),
    licence="for research, after a signed agreement",
    where="University of Texas at Dallas, MSP lab",
    layout="Evalution.txt (or Evaluation.txt) and Audio/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav",
    kind="acted",
    raters=5,
    ratings="primary emotion and dimensions by at least five crowd workers per turn",
    request="ask the MSP lab of UT Dallas for the corpus; unpack Audio beside the evaluation file, and name the folder",
)

SESSIONS: Final = ("session1", "session2", "session3", "session4", "session5", "session6")
SCALE: Final = (1.0, 5.0)
RECORDINGS: Final = {
    "P": "natural",  # between the improvisations
    "R": "read",  # the target sentence, read
    "S": "improvised",  # the other turns of an improvisation
    "T": "target",  # the target sentence, improvised
}
EVALUATION: Final = ("Evalution.txt", "Evaluation.txt")

_NAME: Final = re.compile(
    r"(?:UTD|MSP)-IMPROV-(?P<name>(?P<scenario>S(?P<sentence>\d\d)(?P<intended>[AHNS]))-"
    r"(?P<speaker>(?P<gender>[FM])0(?P<session>\d))-(?P<type>[PRST])-\w+)"
)
_CONSENSUS: Final = re.compile(
    r"(?P<file>(?:UTD|MSP)-IMPROV-\S+?)\.(?:avi|wav)\s*;\s*(?P<emotion>\w+)\s*;(?P<values>.*)"
)
_RATING: Final = re.compile(r"(?P<rater>[^;]+?)\s*;\s*(?P<emotion>[^;]*?)\s*;.*?(?P<values>A:[^;]*;\s*V:.*)")
_VALUE: Final = re.compile(r"([AVDN]):\s*([^;\s]*)")
_DIMENSION: Final = {"A": "arousal", "V": "valence", "D": "dominance"}


def read(root: Path) -> Manifest:
    """Read the release: ``root`` is the folder with the evaluation file, or one above it.

    A turn whose audio is missing stays, without a duration; audio of a turn that is not in the evaluation file is
    passed over. Beside the usual columns: ``recording`` (`RECORDINGS`), ``scenario`` (S01A), ``intended`` (the emotion
    of the scenario) and ``naturalness`` (mean of 1..5). ``text`` names the sentence where it is spoken, in the
    recordings target and read.

    Raises:
        SertuneError: no such folder, no MSP-Improv in it, a session with audio but without labels, no audio, or an
            evaluation file with a line that can't be understood, an unknown emotion or a rating before the first turn.
    """
    need_folder(root, INFO)
    path = _evaluation(root)
    turns, ratings = _parse(path)
    top = path.parent / "Audio" if (path.parent / "Audio").is_dir() else path.parent
    found = files_below(top, (".wav",))
    audio = one_each((match["name"], file) for file in found if (match := _NAME.fullmatch(file.stem)) is not None)
    _need_labels(path, audio, turns)
    for turn in turns:
        name, kind = turn["id"].removeprefix("MSP-IMPROV-"), turn.pop("type")
        expected = top / turn["session"] / turn["scenario"] / kind / f"{turn['id']}.wav"
        turn["file"] = str(audio.get(name, expected))
    frame = pd.DataFrame(turns)
    frame["duration"] = file_seconds(frame["file"].tolist())
    schemes = {"emotion": Scheme(labels=tuple(label for label in INFO.labels if label in CATEGORIES))}
    schemes |= {name: Scheme(low=SCALE[0], high=SCALE[1]) for name in DIMENSIONS}
    wide = pd.DataFrame(ratings, columns=["utterance", "rater", "emotion", *DIMENSIONS])
    return Manifest.of(INFO.name, frame, schemes, long_ratings(wide) if len(wide) else None)


def _evaluation(root: Path) -> Path:
    found = [file for file in files_below(root, (".txt",)) if file.name in EVALUATION]
    if not found:
        raise nothing_found(root, INFO, [root / EVALUATION[0], EVALUATION[1]])
    return min(found, key=lambda file: len(file.parts))


def _need_labels(path: Path, audio: dict[str, Path], turns: list[dict[str, Any]]) -> None:
    if not turns:
        raise SertuneError(
            f"{path}: no turn in it; expected lines such as 'UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.0 ...'"
        )
    if not audio:
        raise SertuneError(
            f"{path.parent}: half a corpus: no audio for the {len(turns)} turns of {path.name}; expected "
            f"{path.parent / 'Audio' / 'session1' / 'S01A' / 'P' / 'MSP-IMPROV-S01A-F01-P-FM01.wav'}"
        )
    labelled = {turn["session"] for turn in turns}
    heard = {f"session{match['session']}" for file in audio.values() if (match := _NAME.fullmatch(file.stem))}
    if lacking := sorted(heard - labelled):
        raise SertuneError(
            f"{path}: half a corpus: {', '.join(lacking)} has audio but no labels in it; copy the file again"
        )


def _parse(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Turns and ratings of the evaluation file."""
    turns: list[dict[str, Any]] = []
    ratings: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        text, where = line.strip(), f"{path}, line {number}"
        if match := _CONSENSUS.fullmatch(text):
            turns.append(_turn(match, where))
        elif match := _RATING.fullmatch(text):
            if not turns:
                raise SertuneError(
                    f"{where}: a rating by {match['rater']!r} before the first turn, so it rates nothing"
                )
            ratings.append({"utterance": turns[-1]["id"], "rater": match["rater"], **_rating(match)})
        elif "IMPROV-" in text or " A:" in text:
            raise SertuneError(
                f"{where}: expected a turn such as 'UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.2; V:3.0; D:3.0 ; N:4.0;', "
                f"or a rating such as 'A1B2C3D4; Neutral; Neutral; A:3.0; V:3.0; D:3.0; N:4.0;', found {text!r}"
            )
    return turns, ratings


def _turn(match: re.Match[str], where: str) -> dict[str, Any]:
    name = _NAME.fullmatch(match["file"])
    if name is None:
        raise SertuneError(f"{where}: {match['file']!r} is no name of a turn (e.g. UTD-IMPROV-S01A-F01-P-FM01)")
    code = match["emotion"]
    if code != "X" and code not in CODES["msp_improv"]:
        known = ", ".join((*CODES["msp_improv"], "X"))
        raise SertuneError(f"{where}: unknown emotion {code!r} (known: {known})")
    values = dict(_VALUE.findall(match["values"]))
    return {
        "id": f"MSP-IMPROV-{name['name']}",
        "speaker": name["speaker"],
        "gender": name["gender"],
        "language": INFO.language,
        "session": f"session{name['session']}",
        "text": f"S{name['sentence']}" if name["type"] in "RT" else None,
        "emotion": CODES["msp_improv"].get(code),
        **_dimensions(values),
        "recording": RECORDINGS[name["type"]],
        "scenario": name["scenario"],
        "intended": CODES["msp_improv"][name["intended"]],
        "naturalness": _number(values.get("N", "")),
        "type": name["type"],
    }


def _rating(match: re.Match[str]) -> dict[str, Any]:
    name = canonical(match["emotion"])
    known = set(CODES["msp_improv"].values())
    emotion = (name if name in known else "other") if name else None
    return {"emotion": emotion, **_dimensions(dict(_VALUE.findall(match["values"])))}


def _dimensions(values: dict[str, str]) -> dict[str, float]:
    found = {name: _number(values.get(letter, "")) for letter, name in _DIMENSION.items()}
    found["arousal"] = SCALE[0] + SCALE[1] - found["arousal"]
    return found


def _number(text: str) -> float:
    """A number on the scale; NaN for anything else."""
    try:
        number = float(text)
    except ValueError:
        return np.nan
    return number if SCALE[0] <= number <= SCALE[1] else np.nan


def _paper_b(frame: pd.DataFrame) -> list[Fold]:
    train = ("F01", "F03", "F05", "F06", "M02", "M03", "M04", "M06")
    return [fold_by(frame, "speaker", "1", test=("F04", "M05"), dev=("F02", "M01"), train=train)]


PROTOCOLS: Final = (
    Published(
        "msp-improv-6fold",
        "arXiv 2306.05350",
        "six folds by session: one session tests, the last of the other five is the dev set (session 6; session 5 "
        "where 6 tests), four train",
        partial(leave_one_session_out, sessions=SESSIONS),
        label_map="4class",
    ),
    Published(
        "msp-improv-paper-b",
        "arXiv 2408.11956",
        "one split by speaker: F01, F03, F05, F06, M02, M03, M04 and M06 train, F02 and M01 are the dev set, F04 and "
        "M05 test; pairs of actors are apart, so sessions are in two parts",
        _paper_b,
    ),
)


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 6 sessions of two speakers, 5 turns each; 48 kHz, mono.

    With turns without agreement, missing dominance, a worker who is listed twice, a turn without audio, audio without
    labels, Windows line ends and macOS's ``._`` files.
    """
    rng = np.random.default_rng(seed)
    words = {"A": "Angry", "H": "Happy", "N": "Neutral", "S": "Sad", "O": "Other"}
    blocks = []
    for session in SESSIONS:
        for g, gender in enumerate("FM"):
            for i, (intended, kind, code) in enumerate(
                (("A", "T", "A"), ("H", "S", "H"), ("N", "P", "N"), ("S", "R", "S"), ("A", "P", "XO"[g]))
            ):
                name = f"S{i % 2 + 1:02d}{intended}-{gender}0{session[-1]}-{kind}-{gender}{'MF'[g]}{i + 1:02d}"
                active = rng.integers(1, 6, size=5)
                dominance = "NaN" if i == 4 else "3.000000"
                values = f"A:{active.mean():.6f}; V:{2 + i / 2:.6f}; D:{dominance} ; N:4.200000;"
                lines = [f"UTD-IMPROV-{name}.avi; {code}; {values}"]
                for k, value in enumerate(active):
                    word = words["ANASH"[k] if code == "X" else code if k < 4 else "N"]
                    rater = f"A{(3 * i + k) % 9:07d}"
                    lines.append(
                        f"{rater}; {word}; {word},Concerned; A:{value}.000000; V:3.000000; D:{dominance}; N:4.000000;"
                    )
                if i == 1:
                    lines.append(lines[-1])
                blocks.append("\n".join(lines) + "\n")
                folder = root / "Audio" / session / name[:4] / kind
                pitch = (200, 110)[g] + 12 * int(session[-1]) + 30 * "ANSH".index(intended)
                if (session, gender, i) != ("session6", "M", 4):
                    write_tone(folder / f"MSP-IMPROV-{name}.wav", 0.3 + 0.02 * i, 48000, pitch, rng)
    folder = root / "Audio" / "session1" / "S01A" / "T"
    write_tone(folder / "MSP-IMPROV-S01A-F01-T-FM99.wav", 0.3, 48000, 220, rng)
    (folder / "._MSP-IMPROV-S01A-F01-T-FM01.wav").write_bytes(MAC_LEFTOVER)
    (root / EVALUATION[0]).write_bytes("\n".join(blocks).replace("\n", "\r\n").encode())
