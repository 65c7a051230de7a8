"""What is known about a corpus before it is read."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CorpusInfo:
    """A line of ``sertune corpora``.

    Attributes:
        name: the word before the colon in ``--data NAME:FOLDER``.
        title: full name and reference.
        language: ISO 639-1 code; several are joined by + ("en+zh").
        speakers: number of speakers in the published corpus.
        hours: hours of speech, to two digits.
        labels: canonical emotion names, and the dimensions.
        licence: under what terms it may be used.
        where: where it comes from, in words.
        layout: what the reader expects to find below FOLDER.
        kind: how the emotions came about; ``format``: not one corpus but a way to store any, whose speakers, hours,
            labels and language are those of the data.
        raters: people whose single ratings are published; 0: none are.
        ratings: what these ratings are, in words; empty: only a consensus, or the acted emotion.
        request: for a corpus that can't be fetched: what to ask for, from whom, and where to put it.
    """

    name: str
    title: str
    language: str
    speakers: int
    hours: float
    labels: tuple[str, ...]
    licence: str
    where: str
    layout: str
    kind: Literal["acted", "elicited", "natural", "synthetic", "format"] = "acted"
    raters: int = 0
    ratings: str = ""
    request: str = ""
