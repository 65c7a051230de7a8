"""ESD, the Emotional Speech Dataset: parallel sentences in English and Mandarin."""

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import MAC_LEFTOVER, files_below, need_folder, nothing_found, one_each, write_tone
from sertune.data.durations import file_seconds
from sertune.data.labels import canonical
from sertune.data.manifest import Manifest
from sertune.data.protocols import Fold, Published, fold_by
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="esd",
    title="ESD, Emotional Speech Dataset (Zhou et al., Speech Communication 137, 2022)",
    language="en+zh",
    speakers=20,
    hours=29.0,
    labels=("anger", "happiness", "neutral", "sadness", "surprise"),
    licence="for research, after signing a licence",
    where="HLTSingapore/Emotional-Speech-Data on GitHub",
    layout="0001/Angry/0001_000351.wav, with or without folders train, evaluation and test, and 0001/0001.txt",
    request="fill in the licence on the page of the corpus and send it to its authors, then unpack it into the folder",
)

MALE: Final = frozenset({"0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020"})
"""By the corpus's ReadMe; the other ten are female."""

SENTENCES: Final = 350
"""Each speaker has this many sentences, and says them in each emotion in the same order."""

_NAME: Final = re.compile(r"(?P<speaker>00(?:0[1-9]|1\d|20))_(?P<number>\d{6})")
# In the label files: name, sentence, emotion. A few lines have spaces in place of tabs, or no emotion.
_LINE: Final = re.compile(r"(?P<name>\d{4}_\d{6})\s+(?P<rest>.*\S)")


def read(root: Path) -> Manifest:
    """Read the files anywhere below ``root``: 0001 to 0010 speak Mandarin, 0011 to 0020 English.

    The emotion is the folder's. ``text`` is the sentence, e.g. ``en-017``, the same in all emotions; ``transcript``
    is an extra column, None where the label file has none. The partition is the corpus's own, by the number of the
    sentence (1 to 20 dev, 21 to 50 test, others train; speakers are in all parts), also in copies without the
    folders train, evaluation and test. A second copy of a file is passed over.

    Raises:
        SertuneError: no such folder, no file of ESD in it, an audio file that is not named as ESD's are or lies
            outside the folders of emotions, or two different files of one name.
    """
    need_folder(root, INFO)
    files = files_below(root)
    if not any(_NAME.fullmatch(file.stem) for file in files):
        raise nothing_found(root, INFO, ["files like 0001/Angry/0001_000351.wav"])
    found = one_each((file.stem, file) for file in files)
    transcripts: dict[str, str] = {}
    for path in files_below(root, [".txt"]):
        if re.fullmatch(r"\d{4}", path.stem):
            transcripts |= _transcripts(path)
    frame = pd.DataFrame([_row(name, file, transcripts.get(name)) for name, file in found.items()])
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def _row(name: str, file: Path, transcript: str | None) -> dict[str, object]:
    match = _NAME.fullmatch(name)
    folders = [canonical(folder) for folder in file.parts[-3:-1]]
    emotion = next((folder for folder in reversed(folders) if folder in INFO.labels), None)
    if match is None or emotion is None or int(match["number"]) < 1:
        raise SertuneError(
            f"{file}: not named as ESD names its files (e.g. Angry/0001_000351.wav: a folder Angry, Happy, Neutral, "
            "Sad or Surprise, speaker 0001 to 0020, number); move it out of the folder"
        )
    language = "zh" if int(match["speaker"]) <= 10 else "en"
    sentence = (int(match["number"]) - 1) % SENTENCES + 1
    return {
        "id": name,
        "file": str(file),
        "speaker": match["speaker"],
        "gender": "male" if match["speaker"] in MALE else "female",
        "language": language,
        "text": f"{language}-{sentence:03d}",
        "partition": "dev" if sentence <= 20 else "test" if sentence <= 50 else "train",
        "emotion": emotion,
        "transcript": transcript,
    }


def _transcripts(path: Path) -> dict[str, str]:
    """Name -> sentence of a speaker's label file."""
    found = {}
    for line in _decoded(path).splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        sentence, tab, _ = match["rest"].partition("\t")
        if not tab:
            before, _, last = sentence.rpartition(" ")
            sentence = before if canonical(last) in INFO.labels else sentence
        found[match["name"]] = sentence.strip()
    return found


def _decoded(path: Path) -> str:
    """The text of a label file; the published ones are in UTF-16, UTF-8, GB 2312 and Latin-1."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SertuneError(f"{path}: can't be read: {error.strerror}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "gb18030" if path.stem <= "0010" else "latin-1"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _official(frame: pd.DataFrame) -> Sequence[Fold]:
    return [fold_by(frame, "partition", "official", train=["train"], dev=["dev"], test=["test"])]


PROTOCOLS: Final = (
    Published(
        "esd-official",
        "Zhou et al., Speech Communication 137, 2022",
        "the corpus's own parts by sentence: of the 350 of each speaker and emotion, 300 train, 20 are dev and 30 "
        "test; speaker-dependent: every speaker is in all three parts",
        _official,
    ),
)


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 2 speakers of Mandarin and 2 of English x 5 emotions x 3 sentences, 16 kHz, 16 bit, mono.

    Two speakers have the folders train, evaluation and test, two don't. The label files are in GB 2312, UTF-16 and
    Latin-1, some with Windows line ends, one with spaces for tabs; and there is what macOS leaves.
    """
    rng = np.random.default_rng(seed)
    sentences = {1: "打远一看，它们的确很美。", 21: "他对谁都那么友好。", 51: "你就把它给了我。"}
    english = {1: "The nine the eggs, I keep.", 21: "I did go, and made many prisoners.", 51: "Dón't be an ass."}
    speakers = {"0001": "gb2312", "0006": "utf-16", "0011": "utf-8", "0016": "latin-1"}
    parts = {1: "evaluation", 21: "test", 51: "train"}
    for i, (speaker, encoding) in enumerate(speakers.items()):
        lines = []
        for j, emotion in enumerate(("Neutral", "Angry", "Happy", "Sad", "Surprise")):
            for number, sentence in (sentences if i < 2 else english).items():
                name = f"{speaker}_{SENTENCES * j + number:06d}"
                folder = root / speaker / emotion / (parts[number] if i % 2 else "")
                write_tone(folder / f"{name}.wav", rng.uniform(0.2, 0.3), 16000, 100 + 40 * i + 20 * j + number, rng)
                lines.append(f"{name}\t{sentence}\t{emotion}")
        lines[0] = lines[0].replace("\t", " ")
        end = "\r\n" if i % 2 else "\n"
        (root / speaker / f"{speaker}.txt").write_bytes((end.join(lines) + end).encode(encoding))
    (root / "ReadMe.txt").write_bytes(b"0001: Chinese Female\r\n")
    (root / "0001" / "Angry" / "._0001_000351.wav").write_bytes(MAC_LEFTOVER)
