"""nEMO, emotional speech in Polish."""

import csv
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import MAC_LEFTOVER, folder_with, need_folder, nothing_found, read_table, write_tone
from sertune.data.durations import file_seconds
from sertune.data.labels import canonical
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="nemo",
    title="nEMO, Dataset of Emotional Speech in Polish (Christop, LREC-COLING 2024)",
    language="pl",
    speakers=9,
    hours=3.1,
    labels=("anger", "fear", "happiness", "neutral", "sadness", "surprise"),
    licence="CC BY-NC-SA 4.0",
    where="amu-cai/nEMO on GitHub",
    layout="data.tsv and samples/WR0_surprised_64.wav",
)

_COLUMNS: Final = ("file_id", "emotion", "raw_text", "speaker_id", "gender", "age")


def read(root: Path) -> Manifest:
    """Read ``data.tsv`` and the files that it names in ``samples``.

    ``text`` is the number of the sentence; ``transcript`` and ``age`` are extra columns. A file that is not there has
    no duration; audio that the table doesn't name is left out.

    Raises:
        SertuneError: no such folder, no ``data.tsv`` in it, or a row with an unknown emotion, a wrong name or age, or
            a file of an earlier row.
    """
    need_folder(root, INFO)
    folder = folder_with(root, "data.tsv")
    if folder is None:
        raise nothing_found(root, INFO, [root / "data.tsv", "samples/WR0_surprised_64.wav"])
    path = folder / "data.tsv"
    # Quotes are part of the text. In the published table the speakers have spaces in front.
    table = read_table(path, _COLUMNS, "\t", quoting=csv.QUOTE_NONE)
    table = table.apply(lambda column: column.str.strip())
    rows = [_row(path, i, dict(zip(table.columns, row, strict=True))) for i, row in enumerate(table.to_numpy())]
    frame = pd.DataFrame(rows)
    if (again := frame["id"].duplicated()).any():
        i = int(np.flatnonzero(again)[0])
        raise SertuneError(f"{path}, row {i + 1}: names {table['file_id'].iat[i]} a second time; keep one of the rows")
    return Manifest.of(INFO.name, frame.assign(duration=file_seconds(frame["file"].tolist())))


def _row(path: Path, i: int, row: dict[str, str]) -> dict[str, object]:
    file = path.parent / "samples" / row["file_id"]
    _, _, text = file.stem.rpartition("_")
    emotion = canonical(row["emotion"])
    if emotion not in INFO.labels or not text.isdigit() or not row["age"].isdigit():
        raise SertuneError(
            f"{path}, row {i + 1}: {row['file_id']!r}, emotion {row['emotion']!r}, age {row['age']!r}: expected a file "
            f"like WR0_surprised_64.wav, an emotion of {', '.join(INFO.labels)}, and an age in years"
        )
    return {
        "id": file.stem,
        "file": str(file),
        "speaker": row["speaker_id"],
        "gender": row["gender"],
        "language": INFO.language,
        "text": text,
        "emotion": emotion,
        "transcript": row["raw_text"],
        "age": int(row["age"]),
    }


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 4 speakers x 6 emotions, 24 kHz, 16 bit, mono.

    The table has a BOM, Windows line ends, spaces before the speakers and a lone quote, and there is what macOS leaves.
    """
    rng = np.random.default_rng(seed)
    lines = ["file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"]
    people = (("WR0", "male", 23), ("EB0", "female", 27), ("KS0", "male", 23), ("IC0", "female", 28))
    for i, (speaker, gender, age) in enumerate(people):
        for j, emotion in enumerate(("anger", "fear", "happiness", "neutral", "sadness", "surprised")):
            number = 1 + (i + j) % 3
            name = f"{speaker}_{emotion}_{number}.wav"
            write_tone(root / "samples" / name, rng.uniform(0.2, 0.3), 24000, 100 + 40 * i + 20 * j, rng)
            text = ("Lubię czytać przed snem.", 'Ucho" słyszy.', "Chodźmy w tango.")[number - 1]
            lines.append(f"{name}\t{emotion}\t{text}\t{text.lower()}\t        {speaker}\t{gender}\t{age}")
    (root / "data.tsv").write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    (root / "samples" / "._WR0_anger_1.wav").write_bytes(MAC_LEFTOVER)
