"""Predictions for files, folders and arrays with a saved model."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sertune.data.audio import as_mono, audio_info, find_audio, read_audio, resample
from sertune.errors import AudioError, SertuneError
from sertune.model.emotion_model import EmotionModel, load_model
from sertune.model.targets import CategoryTarget
from sertune.progress import progress


class Predictor:
    """A saved model, ready to use.

    Args:
        model: loaded, in eval mode.
    """

    def __init__(self, model: EmotionModel) -> None:
        self.model = model

    @property
    def labels(self) -> tuple[str, ...]:
        """The categories, in the order of the model's outputs; empty for dimensions."""
        target = self.model.target
        return target.labels if isinstance(target, CategoryTarget) else ()

    @property
    def rate(self) -> int:
        """Sampling rate in Hz at which arrays are expected, unless another is named."""
        return self.model.encoder.rate

    def predict(
        self, audio: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], rate: int | None = None
    ) -> Any:
        """Predicts one clip, or several.

        Args:
            audio: a file, an array of samples (samples,) or (samples, channels) as floats in [-1, 1], or a list
                of these.
            rate: of the arrays in Hz; the model's own if not given.

        Returns:
            One result (or a list of them): ``{"label", "probabilities"}``, or a dict of dimensions with
            ``value`` and ``scale``; with ``file`` for files. Each as if the clip were alone.

        Raises:
            SertuneError: a clip that can't be used.
        """
        if isinstance(audio, (str, Path, np.ndarray)):
            return self._one(audio, rate)
        return [self._one(clip, rate) for clip in audio]

    def _one(self, clip: str | Path | np.ndarray, rate: int | None) -> dict[str, Any]:
        if isinstance(clip, (str, Path)):
            return predict_file(self.model, clip)
        return describe(self.model, self._samples(clip, rate or self.rate))

    def _samples(self, array: np.ndarray, rate: int) -> np.ndarray:
        mono = as_mono(array)
        if not np.isfinite(mono).all():
            raise AudioError("array", "has NaN or infinite samples")
        return resample(mono, rate, self.rate)


def load(path: str | Path, *, encoder: str | None = None) -> Predictor:
    """A saved model by its run folder or its ``model/``.

    Args:
        path: the folder.
        encoder: where the base encoder is now, if it moved.

    Raises:
        SertuneError: no model there, or another base encoder than the one it was trained on.
    """
    return Predictor(load_model(path, encoder=encoder))


def outputs_of(model: EmotionModel, samples: np.ndarray) -> Tensor:
    """The model's outputs (1, K) for samples (N,) at its rate.

    Raises:
        AudioError: the clip is shorter than any in training could be, or gives no finite output.
    """
    least = model.spec.audio.min_seconds * model.encoder.rate
    if len(samples) < least:
        raise AudioError("clip", f"too short: {len(samples)} samples, expected at least {math.ceil(least)}")
    outputs = model.predict_audio([samples])
    if not bool(outputs.isfinite().all()):
        peak = float(np.abs(samples).max())
        raise AudioError("clip", f"the output is not finite, with a peak of {peak:g} times full scale; 1 is usual")
    return outputs


def describe(model: EmotionModel, samples: np.ndarray) -> dict[str, Any]:
    """The result for samples at the model's rate: label and probabilities, or values with their scale.

    Raises:
        AudioError: as `outputs_of`.
    """
    decoded = model.target.decode(outputs_of(model, samples))
    if isinstance(model.target, CategoryTarget):
        probabilities = dict(zip(model.target.labels, decoded["probabilities"][0].tolist(), strict=True))
        return {"label": model.target.labels[int(decoded["predicted"][0])], "probabilities": probabilities}
    values = decoded["values"][0].tolist()
    return {
        name: {"value": value, "scale": list(scale)}
        for name, value, scale in zip(model.target.dimensions, values, model.target.scales, strict=True)
    }


def predict_file(
    model: EmotionModel, file: str | Path, start: float = math.nan, end: float = math.nan
) -> dict[str, Any]:
    """The result for one file, or a segment of it in seconds.

    Raises:
        AudioError: the file can't be used.
    """
    try:
        return {"file": str(file), **describe(model, read_audio(file, model.encoder.rate, start, end))}
    except AudioError as error:
        raise AudioError(file, error.reason) from None


def predict_files(
    model: EmotionModel, paths: Sequence[str | Path], *, skip_bad: bool = False
) -> Iterator[dict[str, Any]]:
    """Results for files and folders, one at a time, as they are ready.

    With ``skip_bad`` a file that can't be used gives ``{"file", "error"}``.

    Raises:
        SertuneError: a path that does not exist, a folder without audio, no file that can be used, or, without
            ``skip_bad``, one that can't; where its header shows it, that comes before the work, not amid it.
    """
    files = find_audio(paths)
    if not skip_bad:
        for file in files:
            try:
                audio_info(file)
            except AudioError as error:
                raise _hinted(error, files) from None
    good = 0
    with progress("Predicting", len(files)) as advance:
        for file in files:
            try:
                result = predict_file(model, file)
                good += 1
            except AudioError as error:
                if not skip_bad:
                    raise _hinted(error, files) from None
                result = {"file": error.file, "error": error.reason}
            yield result
            advance(1)
    if not good:
        raise SertuneError(f"none of the {len(files)} files can be used")


def _hinted(error: AudioError, files: Sequence[Path]) -> SertuneError:
    return SertuneError(f"{error} (--skip-bad goes on without it)") if len(files) > 1 else error


def csv_columns(model: EmotionModel) -> list[str]:
    """Columns of the CSV of predictions."""
    if isinstance(model.target, CategoryTarget):
        return ["file", "label", *(f"p_{label}" for label in model.target.labels), "error"]
    return ["file", *model.target.dimensions, "error"]


def csv_row(result: dict[str, Any]) -> dict[str, str]:
    """One result as a row of the CSV."""
    row = {"file": result["file"], "error": result.get("error", "")}
    if "probabilities" in result:
        row |= {"label": result["label"], **{f"p_{k}": f"{v:.6f}" for k, v in result["probabilities"].items()}}
    elif "error" not in result:
        row |= {name: f"{entry['value']:.6f}" for name, entry in result.items() if name != "file"}
    return row
