"""The synthetic corpus: speech-like clips made from a seed (see `sertune.data.synthetic`)."""

from pathlib import Path
from typing import Final

import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.data.labels import DIMENSIONS
from sertune.data.manifest import RATING_COLUMNS, Manifest, Scheme
from sertune.data.synthetic import EMOTIONS, RATINGS_FILE, SCALE, UTTERANCES_FILE, write_corpus
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="synthetic",
    title="Synthetic emotional speech: a source-filter synthesiser, speakers and raters from a seed",
    language="zxx",
    speakers=8,
    hours=0.14,
    labels=("anger", "happiness", "neutral", "sadness", *DIMENSIONS),
    licence="free of rights: it is computed",
    where="made on the spot by sertune itself",
    layout=f"{UTTERANCES_FILE}, {RATINGS_FILE}, wav/*.wav",
    kind="synthetic",
    raters=8,
    ratings="the emotion, and arousal, valence and dominance, of every clip by three to five raters",
)


def read(root: str | Path) -> Manifest:
    """A corpus that `sertune.data.synthetic.write_corpus` or `sertune.data.panel.write_rated_corpus` wrote.

    Args:
        root: its folder.

    Returns:
        256 utterances by default, with partitions, consensus labels, the ratings of every rater, and, in extra
        columns, the acted emotion (``intended``) and the point that was spoken (``felt_arousal`` and so on).

    Raises:
        SertuneError: the tables are not there or can't be read.
    """
    folder = Path(root)
    utterances = _table(folder / UTTERANCES_FILE, {"file", "emotion", "intended", *DIMENSIONS})
    ratings = _table(folder / RATINGS_FILE, set(RATING_COLUMNS))
    utterances["file"] = [str(folder.absolute() / str(file)) for file in utterances["file"]]
    acted = set(utterances["intended"])
    schemes = {"emotion": Scheme(labels=tuple(name for name in EMOTIONS if name in acted))}
    schemes |= {dimension: Scheme(low=SCALE[0], high=SCALE[1]) for dimension in DIMENSIONS}
    return Manifest.of(INFO.name, utterances, schemes, ratings)


def example(root: str | Path, seed: int = 0) -> None:
    """Write a corpus of 4 speakers and 48 clips, in a second.

    Raises:
        SertuneError: ``root`` is not empty or can't be written.
    """
    write_corpus(root, speakers=4, sentences=3, per_emotion=3, raters=5, seed=seed)


_MAKE_ONE = "make a synthetic corpus with `sertune demo`, or give `--data synthetic` without a folder"


def _table(path: Path, columns: set[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise SertuneError(f"{path.parent}: not a synthetic corpus, it has no {path.name}; {_MAKE_ONE}") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise SertuneError(f"{path}: can't be read as a table ({error}); {_MAKE_ONE}") from error
    if missing := columns - set(table.columns):
        raise SertuneError(f"{path}: no column {', '.join(sorted(missing))}; {_MAKE_ONE}")
    return table
