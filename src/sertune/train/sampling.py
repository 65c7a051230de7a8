"""Sampling weights of several corpora: how many clips of an epoch come from each."""

from collections.abc import Sequence

import numpy as np

Rows = np.ndarray


def weighted_rows(rows: Rows, source: np.ndarray, weights: Sequence[float], rng: np.random.Generator) -> Rows:
    """As many rows as given, sorted, with shares of the corpora as their weights say.

    Of a corpus that must give more clips than it has, every clip comes equally often, give or take one.

    Args:
        rows: positions of the training part's clips.
        source: (N,) which corpus each clip of the whole data is from.
        weights: of the corpora, above 0; a corpus without a clip among the rows counts for nothing.
        rng: draws which clips come once less than others.
    """
    groups = [rows[source[rows] == number] for number in range(len(weights))]
    shares = np.array([weight if len(group) else 0.0 for weight, group in zip(weights, groups, strict=True)])
    wanted = len(rows) * shares / shares.sum()
    counts = np.floor(wanted).astype(np.int64)
    for number in np.argsort(counts - wanted)[: len(rows) - int(counts.sum())]:  # the largest remainders
        counts[number] += 1
    drawn = []
    for group, count in zip(groups, counts.tolist(), strict=True):
        if count:
            whole, rest = divmod(count, len(group))
            drawn += [np.tile(group, whole), rng.permutation(group)[:rest]]
    return np.sort(np.concatenate(drawn))
