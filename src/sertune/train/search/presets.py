"""Spaces that come with sertune."""

from typing import Any

PRESETS = ("paper-d", "head", "method")

SAMPLES = (32_000, 48_000, 64_000, 80_000, 112_000, 160_000)
"""Maximum lengths of arXiv 2510.07052, in samples at 16 kHz."""
SPEEDS = [0.85, 1.18]
"""Range of the speeds at which clips are heard again, the pitch with it."""
MOST_LAYERS = 4
"""Layers that `method` trains at most; later ones matter most (arXiv 2503.03756: three)."""


def preset(name: str, depth: int) -> dict[str, Any]:
    """The entries of a preset's space; see `sertune.train.search.space`.

    Args:
        name: one of `PRESETS`. ``paper-d``: the four dimensions of arXiv 2510.07052. ``head``: what is read of a frozen
            encoder, and how. ``method``: which method trains what, how fast, and with what regularisation.
        depth: layers of the encoder.
    """
    made = {"paper-d": _paper_d(), "head": _head(), "method": _method(min(depth, MOST_LAYERS))}
    return made[name]


def _paper_d() -> dict[str, Any]:
    return {
        "train.lr": {"log": [1e-6, 1e-3], "points": 4},
        "train.epochs": {"int": [1, 10], "points": 3},
        "train.unfreeze_epoch": {"int": [0, 5], "below": "train.epochs", "points": 3},
        "audio.crop": [samples / 16_000 for samples in SAMPLES],
    }


def _head() -> dict[str, Any]:
    return {
        "method.name": "frozen",
        "head.layers": {"span": [0, "depth"]},
        "head.mix": ["concat", "weighted"],
        "head.pooling": ["mean", "mean+std"],
        "head.standardise": ["channel", "layer", "none"],
        "head.regularisation": {"log": [1e-3, 1.0]},
        "augment.wave_speed": [[], SPEEDS],
        "cache.views": {"choice": [3], "when": {"augment.wave_speed": [SPEEDS]}},
    }


def _method(layers: int) -> dict[str, Any]:
    few = ["lora", "adapter"]
    return {
        "method.name": ["partial", *few, "bias"],
        "method.layers": {"int": [1, layers]} if layers > 1 else 1,
        "method.lora.rank": {"int": [2, 32], "log": True},
        "method.adapter.bottleneck": {"int": [16, 256], "log": True},
        "train.lr": [
            {"log": [3e-5, 2e-3], "when": {"method.name": "partial"}},
            {"log": [3e-4, 2e-2], "when": {"method.name": [*few, "bias"]}},
        ],
        "train.epochs": {"int": [2, 10]},
        "train.weight_decay": {"log": [1e-4, 0.3]},
        "head.dropout": {"float": [0.0, 0.5]},
        "head.blend": {"float": [0.0, 0.6]},
        "target.label_smoothing": {"float": [0.0, 0.2]},
        "augment.time_crop": [[1.0, 1.0], [0.75, 1.0], [0.5, 1.0]],
        "augment.mixup": [0.0, 0.2, 0.4],
    }
