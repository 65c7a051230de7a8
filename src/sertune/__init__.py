"""sertune: fine-tune pre-trained speech encoders for speech emotion recognition, honestly tested."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pathlib import Path

    from sertune.apps.predict import Predictor
    from sertune.config import RunConfig

__all__ = ["load", "run"]


def load(path: "str | Path", *, encoder: str | None = None) -> "Predictor":
    """A saved model, ready to predict: ``sertune.load("RUN").predict("a.wav")``.

    Args:
        path: a run folder or its ``model/``; or a model of SpeechBrain, its folder or its name on the hub.
        encoder: where the base encoder is now, if it moved.

    Raises:
        sertune.errors.SertuneError: no model there, or another base encoder.
    """
    from sertune.apps.predict import load as load_predictor

    return load_predictor(path, encoder=encoder)


def run(config: "RunConfig", *, overwrite: bool = False) -> "Path":
    """Trains, tests and reports, as ``sertune train`` does; returns the run folder.

    Args:
        config: what to do.
        overwrite: replace a run that is already there.

    Raises:
        sertune.errors.SertuneError: a mistake in the settings or the data.
    """
    from sertune.cli import run_and_report
    from sertune.config import validate

    validate(config)
    return run_and_report(config, overwrite=overwrite)
