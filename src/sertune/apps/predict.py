"""Predictions for files, folders and arrays with a saved model."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sertune.data.audio import as_mono, audio_info, find_audio, read_audio, resample
from sertune.errors import AudioError, SertuneError
from sertune.model.adapt import Unlabelled, adapted_outputs, check_method
from sertune.model.emotion_model import EmotionModel, Vectors, load_model
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
        self,
        audio: str | Path | np.ndarray | Sequence[str | Path | np.ndarray],
        rate: int | None = None,
        *,
        adapt: str = "none",
        speakers: Sequence[str | None] | None = None,
    ) -> Any:
        """Predicts one clip, or several.

        Args:
            audio: a file, an array of samples (samples,) or (samples, channels) as floats in [-1, 1], or a list
                of these.
            rate: of the arrays in Hz; the model's own if not given.
            adapt: label-free adaptation to the clips of a list, a key of `sertune.model.adapt.METHODS`.
            speakers: of the clips of a list, for ``adapt="speaker"``.

        Returns:
            One result (or a list of them): ``{"label", "probabilities"}``, or a dict of dimensions with
            ``value`` and ``scale``; with ``file`` for files. Each as if the clip were alone, unless adapted.

        Raises:
            SertuneError: a clip that can't be used.
        """
        if isinstance(audio, (str, Path, np.ndarray)):
            if adapt != "none":
                raise SertuneError(f"adapt {adapt}: needs a list of clips of the new corpus, found one clip")
            return self._one(audio, rate)
        if adapt != "none":
            return self._adapted(audio, rate, adapt, speakers)
        return [self._one(clip, rate) for clip in audio]

    def _adapted(
        self, clips: Sequence[Any], rate: int | None, method: str, speakers: Sequence[str | None] | None
    ) -> list[dict[str, Any]]:
        check_method(self.model, method)
        names = list(speakers) if speakers is not None else [None] * len(clips)
        if len(names) != len(clips):
            raise SertuneError(f"{len(names)} speakers for {len(clips)} clips")
        vectors = [
            _file_vectors(self.model, clip)
            if isinstance(clip, (str, Path))
            else vectors_of(self.model, self._samples(clip, rate or self.rate))
            for clip in clips
        ]
        outputs = adapted_outputs(self.model, Unlabelled.of(vectors, names), method)
        files = [{"file": str(clip)} if isinstance(clip, (str, Path)) else {} for clip in clips]
        return [{**file, **_decoded(self.model, row[None])} for file, row in zip(files, outputs, strict=True)]

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
    _check_length(model, samples)
    outputs = model.predict_audio([samples])
    _check_finite(outputs, samples)
    return outputs


def vectors_of(model: EmotionModel, samples: np.ndarray) -> Vectors:
    """What the last part of the model reads of samples (N,) at its rate; `EmotionModel.outputs` goes on from there.

    Raises:
        AudioError: as `outputs_of`.
    """
    _check_length(model, samples)
    vectors = model.clip_vectors(samples)
    _check_finite(vectors.head, samples)
    return vectors


def _check_length(model: EmotionModel, samples: np.ndarray) -> None:
    least = model.spec.audio.min_seconds * model.encoder.rate
    if len(samples) < least:
        raise AudioError("clip", f"too short: {len(samples)} samples, expected at least {math.ceil(least)}")


def _check_finite(made: Tensor, samples: np.ndarray) -> None:
    if not bool(made.isfinite().all()):
        peak = float(np.abs(samples).max())
        raise AudioError("clip", f"the output is not finite, with a peak of {peak:g} times full scale; 1 is usual")


def _file_vectors(model: EmotionModel, file: str | Path) -> Vectors:
    try:
        return vectors_of(model, read_audio(file, model.encoder.rate))
    except AudioError as error:
        raise AudioError(file, error.reason) from None


def describe(model: EmotionModel, samples: np.ndarray) -> dict[str, Any]:
    """The result for samples at the model's rate: label and probabilities, or values with their scale.

    Raises:
        AudioError: as `outputs_of`.
    """
    return _decoded(model, outputs_of(model, samples))


def _decoded(model: EmotionModel, outputs: Tensor) -> dict[str, Any]:
    """The result for outputs (1, K)."""
    decoded = model.target.decode(outputs)
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
    files = _checked(paths, skip_bad)
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


def predict_adapted(
    model: EmotionModel, paths: Sequence[str | Path], method: str, *, skip_bad: bool = False
) -> list[dict[str, Any]]:
    """Results for files and folders that are adapted to each other without labels, in the order of the files.

    Args:
        model: loaded.
        paths: files and folders of one new corpus.
        method: a key of `sertune.model.adapt.METHODS`; for ``speaker`` the folder that a file lies in is its speaker.
        skip_bad: a file that can't be used gives ``{"file", "error"}``.

    Raises:
        SertuneError: as `predict_files` and `sertune.model.adapt.adapted_outputs`.
    """
    check_method(model, method)
    files = _checked(paths, skip_bad)
    vectors: dict[Path, Vectors] = {}
    errors: dict[Path, str] = {}
    with progress("Reading", len(files)) as advance:
        for file in files:
            advance(1)
            try:
                vectors[file] = _file_vectors(model, file)
            except AudioError as error:
                if not skip_bad:
                    raise _hinted(error, files) from None
                errors[file] = error.reason
    if not vectors:
        raise SertuneError(f"none of the {len(files)} files can be used")
    data = Unlabelled.of(list(vectors.values()), [str(file.parent) for file in vectors])
    outputs = dict(zip(vectors, adapted_outputs(model, data, method), strict=True))
    return [
        {"file": str(file), "error": errors[file]}
        if file in errors
        else {"file": str(file), **_decoded(model, outputs[file][None])}
        for file in files
    ]


def _checked(paths: Sequence[str | Path], skip_bad: bool) -> list[Path]:
    """The files, unless a header shows that one can't be used."""
    files = find_audio(paths)
    for file in files if not skip_bad else []:
        try:
            audio_info(file)
        except AudioError as error:
            raise _hinted(error, files) from None
    return files


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
