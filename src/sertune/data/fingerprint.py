"""Fingerprints of audio: is a clip, at another level, rate or coding, with its ends cut or with noise, there twice?

A clip is a row of small numbers, one per 16 ms. Each bit says whether, at that moment, the ratio of the energies of two
neighbouring bands grows or falls; this is what Haitsma and Kalker ("A highly robust audio fingerprinting system",
ISMIR 2002) take from music. Changes for speech, which are our choices: 25 bands of 300 to 3400 Hz, which even a
telephone leaves, energies averaged over 256 ms, differences over 64 ms, and only moments within 25 dB of the loudest
count. Two takes of one sentence by one speaker agree in little more than the half of all bits that chance gives.

Clips are not compared each with each: an inverted index from numbers to where they stand finds pairs that have several
at one and the same shift, and these alone are compared bit by bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

RATE: Final = 16_000
"""Sampling rate in Hz that fingerprints are taken at."""
HOP: Final = 256
"""Samples from one frame to the next."""
WINDOW: Final = 512
"""Samples of a frame."""
ALIKE: Final = 0.78
"""Share of equal bits from which two clips count as the same audio; .5 is chance."""

_BANDS: Final = 24  # differences of neighbouring bands, hence bits
_LOUD_BIT: Final = np.uint32(1 << _BANDS)
_KEY: Final = np.uint32(_LOUD_BIT - 1)
_EDGES: Final = np.round(np.geomspace(300, 3400, _BANDS + 2) / (RATE / WINDOW)).astype(np.int64)
_SPAN: Final = 16  # frames that energies are averaged over
_LAG: Final = 4  # frames between which they are compared
_LOUD_DB: Final = 25.0
_LEAST: Final = 24  # loud frames that two clips must share to be compared
_NEIGHBOURS: Final = 8  # of an entry of the index that it is paired with
_MOST_KEYS: Final = 1 << 22  # entries of the index; beyond, only some of all numbers are looked up
_FEW: Final = 16  # bits of a number that a small index asks for: the more, the fewer copies in noise are found
_CHUNK: Final = 64  # frames that are transformed at once: what fits into the processor's cache
_HANN: Final = np.hanning(WINDOW + 1)[:-1].astype(np.float32)

Prints = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What fingerprints and trivial features need of a clip.

    Attributes:
        bands: (T, 25) energies of bands between 300 and 3400 Hz.
        energy: (T,) mean square of each frame's samples.
        mean: (257,) mean power at 0, 31.25, ... 8000 Hz.
    """

    bands: NDArray[np.float64]
    energy: NDArray[np.float64]
    mean: NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two clips that are the same audio.

    Attributes:
        first: position of the earlier one.
        second: position of the later one.
        similarity: share of equal bits, `ALIKE` to 1.
        shift: seconds by which the second starts later within the first; negative: earlier.
    """

    first: int
    second: int
    similarity: float
    shift: float


def spectrum(audio: NDArray[np.float32]) -> Spectrum:
    """Energies of a clip over time, its mean spectrum.

    Args:
        audio: (samples,) at `RATE`.
    """
    bands, energy, total = [], [], np.zeros(WINDOW // 2 + 1)
    for frames in _frames(audio):
        transformed = np.fft.rfft(frames * _HANN, axis=1)
        power = transformed.real**2 + transformed.imag**2
        bands.append(np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1).astype(np.float64))
        energy.append(np.einsum("tn,tn->t", frames, frames).astype(np.float64) / WINDOW)
        total += power.sum(axis=0)
    count = sum(len(piece) for piece in energy)
    return Spectrum(np.concatenate(bands), np.concatenate(energy), total / count)


def _frames(audio: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """(up to `_CHUNK`, `WINDOW`) frames; a clip shorter than one is filled up with zeros."""
    if len(audio) < WINDOW:
        audio = np.pad(audio, (0, WINDOW - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW)[::HOP]
    for start in range(0, len(frames), _CHUNK):
        yield frames[start : start + _CHUNK]


def fingerprint(clip: Spectrum) -> Prints:
    """(T,) numbers of 24 bits, with a 25th where the clip is loud; empty for a clip that is too short (0.35 s)."""
    if len(clip.bands) < _SPAN + _LAG:
        return np.zeros(0, dtype=np.uint32)
    sums = np.concatenate([np.zeros((1, _BANDS + 1)), np.cumsum(clip.bands, axis=0)])
    # Sums may fall by rounding where a loud part ends in digital silence.
    mean = np.maximum(sums[_SPAN:] - sums[:-_SPAN], 1e-12 * max(float(sums[-1].max()), 1e-30))
    ratio = np.diff(np.log(mean), axis=1)
    grows = ratio[_LAG:] > ratio[:-_LAG]
    level = mean.sum(axis=1)[_LAG // 2 : len(mean) - _LAG // 2]
    loud = level > level.max() * 10 ** (-_LOUD_DB / 10)
    bits = grows @ (np.uint32(1) << np.arange(_BANDS, dtype=np.uint32))
    return np.asarray(bits | (loud * _LOUD_BIT), dtype=np.uint32)


def near_duplicates(prints: Sequence[Prints]) -> list[Pair]:
    """Pairs of clips that are the same audio, each clip with at least one earlier one that it equals.

    Work grows with the number of frames, not with that of pairs. Of many copies of one clip not all pairs are
    found, but every copy is in one. Clips with less than about 0.7 s of speech are not judged. In more than about
    18 hours of speech only some of all numbers are looked up, and a copy in noise may be missed.

    Args:
        prints: of every clip, as `fingerprint` gives them; empty ones are passed over.

    Returns:
        Pairs by ``second``, then ``first``.
    """
    keys, owner, place = _index(prints)
    if not len(keys):
        return []
    first, second, shift = _candidates(keys, owner, place, len(prints))
    found = []
    for a, b, by in zip(first.tolist(), second.tolist(), shift.tolist(), strict=True):
        alike, best = max((_agreement(prints[a], prints[b], by + step), by + step) for step in (-1, 0, 1))
        if alike >= ALIKE:
            found.append(Pair(a, b, round(alike, 4), round(best * HOP / RATE, 3)))
    return sorted(found, key=lambda pair: (pair.second, pair.first))


def _index(prints: Sequence[Prints]) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of loud frames in sorted order, whose clip they are, and where they stand in it."""
    sizes = np.array([len(p) for p in prints], dtype=np.int64)
    if not sizes.sum():
        nothing = np.zeros(0, dtype=np.int64)
        return nothing.astype(np.uint32), nothing, nothing
    all_prints = np.concatenate(prints)
    owner = np.repeat(np.arange(len(prints)), sizes)
    place = np.arange(len(all_prints)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep = all_prints >= _LOUD_BIT
    keep[1:] &= (all_prints[1:] != all_prints[:-1]) | (owner[1:] != owner[:-1])
    bits = min(_BANDS, max(_FEW, int(keep.sum()).bit_length()))
    keys = all_prints & np.uint32((1 << bits) - 1)  # the lower bands, where speech is strong
    step = -(-int(keep.sum()) // _MOST_KEYS)
    if step > 1:  # by the number itself, so that copies keep the same ones
        keep &= (keys * np.uint32(2654435761) >> np.uint32(8)) % np.uint32(step) == 0
    keys, owner, place = keys[keep], owner[keep], place[keep]
    order = np.argsort(keys, kind="stable")
    return keys[order], owner[order], place[order]


def _candidates(
    keys: NDArray[np.uint32], owner: NDArray[np.int64], place: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pairs with at least two numbers in common at about one shift: first clip, second clip, shift in frames."""
    reach = int(place.max()) + 2
    votes = []
    for step in range(1, _NEIGHBOURS + 1):
        here = np.flatnonzero((keys[step:] == keys[:-step]) & (owner[step:] != owner[:-step]))
        shift = place[here] - place[here + step]  # owners rise within a number, as the order is stable
        votes.append((owner[here] * count + owner[here + step]) * (2 * reach) + shift + reach)
    ballots, counts = np.unique(np.concatenate(votes), return_counts=True)
    near = np.append(ballots[1:] == ballots[:-1] + 1, False)
    counts = counts + np.where(near, np.append(counts[1:], 0), 0)
    ballots, counts = ballots[counts > 1], counts[counts > 1]
    pairs = ballots // (2 * reach)
    order = np.lexsort((-counts, pairs))
    best = order[np.append(True, pairs[order][1:] != pairs[order][:-1])] if len(order) else order
    pairs, shift = pairs[best], ballots[best] % (2 * reach) - reach
    return pairs // count, pairs % count, shift


def _agreement(first: Prints, second: Prints, shift: int) -> float:
    """Share of equal bits in the loud frames that both have, with the second's frame 0 at frame ``shift`` of the first.

    0 where they share too little: less than half of what is loud in the clip that has less of it.
    """
    start, stop = max(0, shift), min(len(first), shift + len(second))
    if stop - start < _LEAST:
        return 0.0
    a, b = first[start:stop], second[start - shift : stop - shift]
    both = (a & b) >= _LOUD_BIT
    count = int(both.sum())
    if count < _LEAST or 2 * count < min(int((p >= _LOUD_BIT).sum()) for p in (first, second)):
        return 0.0
    differ = int(np.bitwise_count((a ^ b)[both] & _KEY).sum())
    return 1 - differ / (count * _BANDS)
