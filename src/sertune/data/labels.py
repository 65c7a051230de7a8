"""Names of emotions, attributes, partitions and genders: one canonical spelling for each."""

import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np

CATEGORIES: Final = (
    "anger",
    "boredom",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "calm",
    "sadness",
    "surprise",
    "excitement",
    "frustration",
    "other",
)
DIMENSIONS: Final = ("arousal", "valence", "dominance")
ATTRIBUTES: Final = ("emotion", *DIMENSIONS)
PARTITIONS: Final = ("train", "dev", "test")

POSITIONS: Final = {
    "anger": (0.59, -0.51),
    "boredom": (-0.62, -0.65),
    "contempt": (0.31, -0.23),
    "disgust": (0.35, -0.60),
    "fear": (0.60, -0.64),
    "happiness": (0.51, 0.81),
    "neutral": (0.0, 0.0),
    "calm": (-0.46, 0.68),
    "sadness": (-0.27, -0.63),
    "surprise": (0.67, 0.40),
    "excitement": (0.75, 0.62),
    "frustration": (0.52, -0.64),
    "other": (0.0, 0.0),
}
"""Arousal and valence (pleasure), -1 to 1, of every category.

Means of ratings from Russell and Mehrabian (1977), "Evidence for a three-factor theory of emotions", Journal of
Research in Personality 11(3), Table 3, of the terms angry, bored, contempt, disgusted, fearful, happy, relaxed (for
calm, which was not rated), sad, surprised, excited and frustrated. Neutral is the origin of the scales, and so, for
want of a place, is "other".
"""

# English adjectives, the codes of CREMA-D and IEMOCAP, then German, Spanish, French, Italian, Portuguese and
# Dutch. Written without accents: `canonical` looks up the accent-free form.
_SPELLINGS: Final = {
    "anger": "angry ang rage wut wutend arger aerger argerlich zorn zornig enfado enojo ira enfadado colere "
    "rabbia arrabbiato raiva boosheid boos",
    "boredom": "bored bor langeweile gelangweilt aburrimiento aburrido ennui noia annoiato tedio verveling",
    "contempt": "contemptuous verachtung verachtlich desprecio mepris disprezzo desprezo minachting",
    "disgust": "disgusted dis ekel angeekelt asco disgusto degout disgustato nojo walging",
    "fear": "fearful afraid scared fea angst angstlich furcht miedo peur paura medo bang",
    "happiness": "happy hap joy joyful freude frohlich gluck glucklich alegria felicidad feliz joie bonheur "
    "gioia felicita felicidade vreugde blij",
    "neutral": "neutrality neu ntr neutro neutre neutrale neutralita neutraal",
    "calm": "calmness ruhig ruhe calma calme kalm",
    "sadness": "sad trauer traurig traurigkeit tristeza triste tristesse tristezza verdriet verdrietig",
    "surprise": "surprised sur uberraschung uberrascht ueberraschung sorpresa sorprendido surpresa "
    "verrassing pleasant_surprise pleasant_surprised",
    "excitement": "excited exc begeisterung begeistert excitation eccitazione excitacao opwinding",
    "frustration": "frustrated fru frustriert frustracion frustrazione frustracao frustratie",
    "other": "oth",
}
_CANONICAL: Final = {
    **{spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()},
    **{name: name for name in CATEGORIES},
}

# One-letter codes differ between corpora ("A" is Angst in EmoDB and angry in URDU), so that they are only
# read by the corpus that wrote them.
CODES: Final = {
    "emodb": {
        "W": "anger",  # Wut
        "L": "boredom",  # Langeweile
        "E": "disgust",  # Ekel
        "A": "fear",  # Angst
        "F": "happiness",  # Freude
        "T": "sadness",  # Trauer
        "N": "neutral",
    },
    "iemocap": {
        "ang": "anger",
        "dis": "disgust",
        "exc": "excitement",
        "fea": "fear",
        "fru": "frustration",
        "hap": "happiness",
        "neu": "neutral",
        "oth": "other",
        "sad": "sadness",
        "sur": "surprise",
    },
    "msp_improv": {"A": "anger", "H": "happiness", "N": "neutral", "O": "other", "S": "sadness"},
    "msp_podcast": {
        "A": "anger",
        "C": "contempt",
        "D": "disgust",
        "F": "fear",
        "H": "happiness",
        "N": "neutral",
        "O": "other",
        "S": "sadness",
        "U": "surprise",
    },
    "urdu": {"A": "anger", "H": "happiness", "N": "neutral", "S": "sadness"},
    "ravdess": {
        "01": "neutral",
        "02": "calm",
        "03": "happiness",
        "04": "sadness",
        "05": "anger",
        "06": "fear",
        "07": "disgust",
        "08": "surprise",
    },
    # Of the raters' answers; file names have three letters.
    "cremad": {"A": "anger", "D": "disgust", "F": "fear", "H": "happiness", "N": "neutral", "S": "sadness"},
    "tess": {
        "angry": "anger",
        "disgust": "disgust",
        "fear": "fear",
        "happy": "happiness",
        "neutral": "neutral",
        "ps": "surprise",  # pleasant surprise
        "sad": "sadness",
    },
    "savee": {
        "a": "anger",
        "d": "disgust",
        "f": "fear",
        "h": "happiness",
        "n": "neutral",
        "sa": "sadness",
        "su": "surprise",
    },
    "emovo": {
        "rab": "anger",  # rabbia
        "dis": "disgust",
        "pau": "fear",  # paura
        "gio": "happiness",  # gioia
        "neu": "neutral",
        "tri": "sadness",  # tristezza
        "sor": "surprise",  # sorpresa
    },
}

_ATTRIBUTE_ALIASES: Final = {"activation": "arousal", "label": "emotion", "category": "emotion"}
_PARTITION_ALIASES: Final = {
    "training": "train",
    "trn": "train",
    "development": "dev",
    "devel": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "testing": "test",
    "tst": "test",
    "eval": "test",
    "evaluation": "test",
}
_GENDER_ALIASES: Final = {
    "m": "male",
    "man": "male",
    "masculine": "male",
    "f": "female",
    "w": "female",
    "woman": "female",
    "feminine": "female",
}


def canonical(label: str) -> str:
    """The canonical name of an emotion label in any known spelling, e.g. ``"Wut"`` -> ``"anger"``.

    A label that isn't known is kept as lower-case text without outer spaces. One-letter codes mean different
    emotions in different corpora and are not read here: see `CODES`.
    """
    text = unicodedata.normalize("NFC", label).strip().lower()
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _CANONICAL.get(plain.replace(" ", "_"), text)


def attribute(name: str) -> str:
    """The stored name of an attribute: ``activation`` is ``arousal``, ``label`` is ``emotion``."""
    text = name.strip().lower()
    return _ATTRIBUTE_ALIASES.get(text, text)


def partition(name: str) -> str:
    """The stored name of a partition: ``validation`` is ``dev``, ``eval`` is ``test``."""
    text = name.strip().lower()
    return _PARTITION_ALIASES.get(text, text)


def gender(name: str) -> str:
    """``male`` or ``female`` for the usual short forms; any other word in lower case."""
    text = name.strip().lower()
    return _GENDER_ALIASES.get(text, text)


def label_distances(labels: Sequence[str]) -> np.ndarray:
    """(L, L) Euclidean distances between categories in the arousal-valence plane (`POSITIONS`), each side 2 long.

    Raises:
        KeyError: a label that is not canonical.
    """
    places = np.array([POSITIONS[label] for label in labels])
    return np.asarray(np.linalg.norm(places[:, None] - places[None], axis=2))
