"""What is known about a corpus before it is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CorpusInfo:
    """A line of ``sertune corpora``.

    Attributes:
        name: the word before the colon in ``--data NAME:FOLDER``.
        title: full name and reference.
        language: ISO 639-1 code.
        speakers: number of speakers in the published corpus.
        hours: hours of speech, to two digits.
        labels: canonical emotion names, or the dimensions.
        licence: under what terms it may be used.
        where: where it comes from, in words.
        layout: what the reader expects to find below FOLDER.
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
