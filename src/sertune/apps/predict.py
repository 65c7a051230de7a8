"""Predictions for files, folders and arrays with a saved model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sertune.apps.annotators import Rater, digest_of, find_rater, known_names, new_rater, rating_values, read_ratings
from sertune.data.audio import as_mono, audio_info, find_audio, read_audio, resample
from sertune.errors import AudioError, SertuneError
from sertune.model.adapt import Unlabelled, adapted_outputs, check_method
from sertune.model.emotion_model import EmotionModel, Vectors, load_model
from sertune.model.new_rater import rater_part
from sertune.model.targets import (
    DimensionTarget,
    PlaneTarget,
    RaterLabelTarget,
    RaterTarget,
    Single,
    SpreadTarget,
    VotesTarget,
    dimensions_of,
    labels_of,
    parts_of,
    singles,
)
from sertune.model.targets.dimension import from_unit
from sertune.model.targets.distribution import PLANE
from sertune.progress import progress

CELLS_SHOWN: Final = 3
"""Cells of the plane that a person is shown: the largest."""


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked of a model beside its usual prediction.

    Attributes:
        distribution: of opinions: the shares of the plane's cells.
        raters: annotators whose own values, or distributions over the labels, are wanted.
    """

    distribution: bool = False
    raters: tuple[Rater, ...] = ()


NOTHING: Final = Ask()


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
        return next((found for part in singles(self.model.target) if (found := labels_of(part))), ())

    @property
    def raters(self) -> tuple[str, ...]:
        """The annotators that the model knows; empty where it predicts none."""
        return tuple(known_names(self.model))

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
        rater: str | Rater | Sequence[str | Rater] | None = None,
        distribution: bool = False,
    ) -> Any:
        """Predicts one clip, or several.

        Args:
            audio: a file, an array of samples (samples,) or (samples, channels) as floats in [-1, 1], or a list
                of these.
            rate: of the arrays in Hz; the model's own if not given.
            adapt: label-free adaptation to the clips of a list, a key of `sertune.model.adapt.METHODS`.
            speakers: of the clips of a list, for ``adapt="speaker"``.
            rater: a known annotator by name, one that `fit_rater` made, the file of one, or several of these.
            distribution: whether the distribution of opinions is wanted.

        Returns:
            One result (or a list of them), as `describe` gives it; with ``file`` for files. Each as if the clip were
            alone, unless adapted.

        Raises:
            SertuneError: a clip that can't be used; an annotator that is not known, or of another model; a model that
                predicts no annotators, or no distribution.
        """
        ask = self._ask(rater, distribution)
        if isinstance(audio, (str, Path, np.ndarray)):
            if adapt != "none":
                raise SertuneError(f"adapt {adapt}: needs a list of clips of the new corpus, found one clip")
            return self._one(audio, rate, ask)
        if adapt != "none":
            return self._adapted(audio, rate, adapt, speakers, ask)
        return [self._one(clip, rate, ask) for clip in audio]

    def fit_rater(
        self,
        clips: Sequence[str | Path | np.ndarray],
        ratings: Mapping[str, Sequence[float]] | Sequence[str],
        *,
        rate: int | None = None,
        name: str = "new",
    ) -> Rater:
        """A new annotator from a few ratings, for ``predict(..., rater=...)``; see `sertune.model.new_rater`.

        Args:
            clips: that were rated: files, or arrays as `predict` takes them.
            ratings: values of each dimension on its own scale, NaN where missing, e.g. ``{"arousal": [2, 4.5]}``; or
                labels.
            rate: of the arrays in Hz; the model's own if not given.
            name: of the new annotator.

        Raises:
            SertuneError: the model predicts no annotators, a clip can't be used, or a rating is outside its scale.
        """
        values = rating_values(self.model, len(clips), ratings)
        if not len(clips):
            raise SertuneError("no clips, and no ratings of them: nothing to fit an annotator to")
        return new_rater(self.model, name, [self._vectors(clip, rate) for clip in clips], values)

    def _ask(self, rater: str | Rater | Sequence[str | Rater] | None, distribution: bool) -> Ask:
        wanted = [] if rater is None else [rater] if isinstance(rater, (str, Rater)) else list(rater)
        raters = tuple(find_rater(self.model, one) if isinstance(one, str) else one for one in wanted)
        ask = Ask(distribution, raters)
        check_ask(self.model, ask)
        return ask

    def _adapted(
        self,
        clips: Sequence[Any],
        rate: int | None,
        method: str,
        speakers: Sequence[str | None] | None,
        ask: Ask,
    ) -> list[dict[str, Any]]:
        check_ask(self.model, ask, method)
        check_method(self.model, method)
        names = list(speakers) if speakers is not None else [None] * len(clips)
        if len(names) != len(clips):
            raise SertuneError(f"{len(names)} speakers for {len(clips)} clips")
        vectors = [self._vectors(clip, rate) for clip in clips]
        outputs = adapted_outputs(self.model, Unlabelled.of(vectors, names), method)
        files = [{"file": str(clip)} if isinstance(clip, (str, Path)) else {} for clip in clips]
        return [{**file, **_decoded(self.model, row[None], ask)} for file, row in zip(files, outputs, strict=True)]

    def _vectors(self, clip: str | Path | np.ndarray, rate: int | None) -> Vectors:
        if isinstance(clip, (str, Path)):
            return _file_vectors(self.model, clip)
        return vectors_of(self.model, self._samples(clip, rate or self.rate))

    def _one(self, clip: str | Path | np.ndarray, rate: int | None, ask: Ask) -> dict[str, Any]:
        if isinstance(clip, (str, Path)):
            return predict_file(self.model, clip, ask=ask)
        return describe(self.model, self._samples(clip, rate or self.rate), ask)

    def _samples(self, array: np.ndarray, rate: int) -> np.ndarray:
        mono = as_mono(array)
        if not np.isfinite(mono).all():
            raise AudioError("array", "has NaN or infinite samples")
        return resample(mono, rate, self.rate)


def load(path: str | Path, *, encoder: str | None = None) -> Predictor:
    """A saved model by its run folder or its ``model/``, or one that SpeechBrain trained.

    Args:
        path: the folder; of SpeechBrain's models also their name on the hub.
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


def _file_vectors(model: EmotionModel, file: str | Path, start: float = math.nan, end: float = math.nan) -> Vectors:
    try:
        return vectors_of(model, read_audio(file, model.encoder.rate, start, end))
    except AudioError as error:
        raise AudioError(file, error.reason) from None


def rater_like(model: EmotionModel, table: str | Path) -> Rater:
    """A new annotator, named as a table of ratings (`sertune.apps.annotators.read_ratings`), from its clips.

    Raises:
        SertuneError: the model predicts no annotators, or the table or one of its files can't be used: with the row.
    """
    rated = read_ratings(model, table)
    vectors: list[Vectors] = []
    with progress("Reading", len(rated.clips)) as advance:
        for row, clip in zip(rated.rows, rated.clips, strict=True):
            try:
                vectors.append(_file_vectors(model, *clip))
            except AudioError as error:
                raise SertuneError(f"{table}, row {row}: {error}") from None
            advance(1)
    return new_rater(model, Path(table).stem, vectors, rated.values)


def check_ask(model: EmotionModel, ask: Ask, adapt: str = "none") -> None:
    """Raises `SertuneError` where the model can't give what is asked for."""
    if ask.distribution and not any(_has_distribution(part) for part in singles(model.target)):
        parts = singles(model.target)
        if any(isinstance(part, (SpreadTarget, RaterTarget)) for part in parts):
            what = "mean and spread, but no plane, which needs both arousal and valence"
        else:
            what = f"no distribution of opinions (target {model.target.name}); train one with --target distribution"
        raise SertuneError(f"the model predicts {what}")
    if not ask.raters:
        return
    rater_part(model)
    if adapt != "none":
        raise SertuneError(f"adapt {adapt}: is for the mean and the distribution, not for single annotators")
    names = [rater.name for rater in ask.raters]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SertuneError(f"annotator {twice[0]!r} is asked for twice")
    digest = digest_of(model)
    for rater in ask.raters:
        if rater.digest != digest:
            raise SertuneError(f"annotator {rater.name!r} belongs to another model; fit it with this one")


def _has_distribution(part: Single) -> bool:
    return isinstance(part, (VotesTarget, RaterLabelTarget)) or _plane_of(part) is not None


def _plane_of(part: Single) -> dict[str, np.ndarray] | None:
    """The edges of the plane's cells on the own scales of arousal and valence; None without a plane."""
    plane = part.plane if isinstance(part, (PlaneTarget, RaterTarget, SpreadTarget)) else None
    if plane is None or not isinstance(part, (PlaneTarget, RaterTarget, SpreadTarget)):
        return None
    scales = dict(zip(part.dimensions, part.scales, strict=True))
    return {name: np.linspace(*scales[name], bins + 1) for name, bins in zip(PLANE, plane.grid, strict=True)}


def describe(model: EmotionModel, samples: np.ndarray, ask: Ask = NOTHING) -> dict[str, Any]:
    """The result for samples at the model's rate.

    ``label`` and ``probabilities``, or for each dimension ``value`` and ``scale``, with joined targets both. Models of
    opinions also give ``spread``, the standard deviation of single ratings on the own scale. With
    `Ask.distribution`, ``plane``, the shares of the cells of the arousal-valence plane, arousal first, and ``edges``
    of these cells; the distribution over labels are their probabilities. With `Ask.raters`, ``raters``: what each of
    these annotators says.

    A clip that is cut into windows has the mean of its windows' outputs in all of this.

    Raises:
        AudioError: as `outputs_of`.
    """
    return _of_vectors(model, vectors_of(model, samples), ask)


@torch.no_grad()
def _of_vectors(model: EmotionModel, vectors: Vectors, ask: Ask) -> dict[str, Any]:
    """The result for the windows of one clip."""
    outputs = model.outputs(vectors).cpu().mean(0, keepdim=True)
    if not bool(outputs.isfinite().all()):
        raise AudioError("clip", "the output is not finite")
    result = _decoded(model, outputs, ask)
    if ask.raters:
        own = torch.cat([rater.own for rater in ask.raters])
        values = model.annotators(vectors, own).cpu().mean(0)
        made = (_said(model, value) for value in values)
        result["raters"] = {rater.name: said for rater, said in zip(ask.raters, made, strict=True)}
    return result


def _said(model: EmotionModel, values: Tensor) -> dict[str, Any]:
    """What an annotator says, from values in [-1, 1] or logits (V,)."""
    target, _ = rater_part(model)
    if isinstance(target, RaterLabelTarget):
        return _ranked(target.labels, values.double().softmax(0).numpy())
    made = from_unit(values.double().numpy(), target.scales)
    return {
        name: {"value": float(value), "scale": list(scale)}
        for name, value, scale in zip(target.dimensions, made, target.scales, strict=True)
    }


def _ranked(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    return {
        "label": labels[int(probabilities.argmax())],
        "probabilities": dict(zip(labels, probabilities.tolist(), strict=True)),
    }


def _decoded(model: EmotionModel, outputs: Tensor, ask: Ask = NOTHING) -> dict[str, Any]:
    """The result for finished outputs (1, K); of joined targets the first one that says something keeps it."""
    target = model.target
    own = {id(part): columns for part, columns, _ in parts_of(target, outputs, target.missing(1).numpy())}
    result: dict[str, Any] = {}
    for part in singles(target):
        for name, entry in _decoded_part(part, own[id(part)], ask).items():
            known = result.get(name)
            # a plain dimension first, and its spread from the other
            result[name] = {**entry, **known} if isinstance(known, dict) and "value" in known else known or entry
    return result


def _decoded_part(part: Single, outputs: Tensor, ask: Ask) -> dict[str, Any]:
    decoded = part.decode(outputs)
    if part.categorical:
        return _ranked(labels_of(part), decoded["probabilities"][0])
    result: dict[str, Any] = {}
    for column, (name, scale) in enumerate(zip(dimensions_of(part), _scales(part), strict=True)):
        entry: dict[str, Any] = {"value": float(decoded["values"][0, column])}
        if "spread" in decoded:
            entry["spread"] = float(decoded["spread"][0, column])
        result[name] = {**entry, "scale": list(scale)}
    edges = _plane_of(part) if ask.distribution else None
    if edges is not None:
        shape = [len(places) - 1 for places in edges.values()]
        result["plane"] = decoded["cells"][0].reshape(shape).tolist()
        result["edges"] = {name: places.tolist() for name, places in edges.items()}
    return result


def _scales(part: Single) -> Sequence[tuple[float, float]]:
    return part.scales if isinstance(part, (DimensionTarget, PlaneTarget, RaterTarget, SpreadTarget)) else ()


def predict_file(
    model: EmotionModel, file: str | Path, start: float = math.nan, end: float = math.nan, *, ask: Ask = NOTHING
) -> dict[str, Any]:
    """The result for one file, or a segment of it in seconds; as `describe`.

    Raises:
        AudioError: the file can't be used.
    """
    try:
        return {"file": str(file), **describe(model, read_audio(file, model.encoder.rate, start, end), ask)}
    except AudioError as error:
        raise AudioError(file, error.reason) from None


def predict_files(
    model: EmotionModel, paths: Sequence[str | Path], *, skip_bad: bool = False, ask: Ask = NOTHING
) -> Iterator[dict[str, Any]]:
    """Results for files and folders, one at a time, as they are ready.

    With ``skip_bad`` a file that can't be used gives ``{"file", "error"}``.

    Raises:
        SertuneError: a path that does not exist, a folder without audio, no file that can be used, or, without
            ``skip_bad``, one that can't; where its header shows it, that comes before the work, not amid it. Or what
            `check_ask` finds.
    """
    check_ask(model, ask)
    files = _checked(paths, skip_bad)
    good = 0
    with progress("Predicting", len(files)) as advance:
        for file in files:
            try:
                result = predict_file(model, file, ask=ask)
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
    model: EmotionModel, paths: Sequence[str | Path], method: str, *, skip_bad: bool = False, ask: Ask = NOTHING
) -> list[dict[str, Any]]:
    """Results for files and folders that are adapted to each other without labels, in the order of the files.

    Args:
        model: loaded.
        paths: files and folders of one new corpus.
        method: a key of `sertune.model.adapt.METHODS`; for ``speaker`` the folder that a file lies in is its speaker.
        skip_bad: a file that can't be used gives ``{"file", "error"}``.
        ask: the distribution, if wanted; single annotators can't be adapted.

    Raises:
        SertuneError: as `predict_files` and `sertune.model.adapt.adapted_outputs`.
    """
    check_ask(model, ask, method)
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
        else {"file": str(file), **_decoded(model, outputs[file][None], ask)}
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


def csv_columns(model: EmotionModel, ask: Ask = NOTHING) -> list[str]:
    """Columns of the CSV of predictions: those of `csv_row`, in the order of the targets."""
    found: dict[str, None] = {}
    for part in singles(model.target):
        spread = isinstance(part, (RaterTarget, SpreadTarget, PlaneTarget))
        found |= dict.fromkeys(_columns(labels_of(part), dimensions_of(part), spread))
        edges = _plane_of(part) if ask.distribution else None
        if edges is not None:
            gx, gy = (len(places) - 1 for places in edges.values())
            found |= dict.fromkeys(f"plane_{i}_{j}" for i in range(gx) for j in range(gy))
    if ask.raters:
        target, _ = rater_part(model)
        for rater in ask.raters:
            names = _columns(labels_of(target), dimensions_of(target), spread=False)
            found |= dict.fromkeys(f"{name}[{rater.name}]" for name in names)
    return ["file", *found, "error"]


def _columns(labels: Sequence[str], dimensions: Sequence[str], spread: bool) -> list[str]:
    if labels:
        return ["label", *(f"p_{label}" for label in labels)]
    return [column for name in dimensions for column in ([name, f"{name}_spread"] if spread else [name])]


def csv_row(result: dict[str, Any]) -> dict[str, str]:
    """One result as a row of the CSV; what an annotator says is in columns such as ``arousal[p01]``."""
    row = {"file": result["file"], "error": result.get("error", ""), **_cells(result)}
    for i, line in enumerate(result.get("plane", [])):
        row |= {f"plane_{i}_{j}": f"{share:.6f}" for j, share in enumerate(line)}
    for rater, said in result.get("raters", {}).items():
        row |= {f"{name}[{rater}]": text for name, text in _cells(said).items()}
    return row


def _cells(result: dict[str, Any]) -> dict[str, str]:
    row: dict[str, str] = {}
    if "probabilities" in result:
        row |= {"label": result["label"], **{f"p_{k}": f"{v:.6f}" for k, v in result["probabilities"].items()}}
    for name, entry in _values(result).items():
        row[name] = f"{entry['value']:.6f}"
        if "spread" in entry:
            row[f"{name}_spread"] = f"{entry['spread']:.6f}"
    return row


def _values(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The dimensions of a result."""
    return {name: entry for name, entry in result.items() if isinstance(entry, dict) and "value" in entry}


def in_words(result: dict[str, Any]) -> str:
    """One result for a person: a line, and further ones for the plane's largest cells and for each annotator."""
    if "error" in result:
        return f"{result['file']}: not predicted: {result['error']}"
    lines = [f"{result['file']}: {_in_words(result)}"]
    if "plane" in result:
        lines.append(f"  plane: {_largest(result)}")
    lines += [f"  {rater}: {_in_words(said)}" for rater, said in result.get("raters", {}).items()]
    return "\n".join(lines)


def _in_words(result: dict[str, Any]) -> str:
    words: list[str] = []
    if "probabilities" in result:
        ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
        words.append(f"{result['label']}  ({', '.join(f'{k} {v:.2f}' for k, v in ranked)})")
    for name, entry in _values(result).items():
        spread = f" +- {entry['spread']:.2f}" if "spread" in entry else ""
        words.append(f"{name} {entry['value']:.2f}{spread} of {entry['scale'][0]:g}..{entry['scale'][1]:g}")
    return ", ".join(words)


def _largest(result: dict[str, Any]) -> str:
    """E.g. ``"arousal 3..4 and valence 1..2: 0.31; ..."``."""
    shares = np.array(result["plane"])
    x, y = (result["edges"][name] for name in PLANE)
    words = []
    for place in np.argsort(-shares, axis=None, kind="stable")[:CELLS_SHOWN].tolist():
        i, j = divmod(place, shares.shape[1])
        words.append(f"arousal {x[i]:g}..{x[i + 1]:g} and valence {y[j]:g}..{y[j + 1]:g}: {shares[i, j]:.2f}")
    return "; ".join(words)
