"""Encoder, head and target as one model; saved as what was trained, plus the name and digest of the base."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sertune.config import AudioConfig, AugmentConfig, HeadConfig, MethodConfig, from_dict
from sertune.data.augment import augment_states
from sertune.data.batch import Batch, LayerStates, collate, pad_states
from sertune.errors import SertuneError
from sertune.files import replacing
from sertune.model.builtin import BUILTIN, EMBEDDED, EMOTION, RANDOM, RANDOM_DIGEST
from sertune.model.encoder import Encoder, half_where_autocast, load_encoder
from sertune.model.head import Head
from sertune.model.loading import hub_answers
from sertune.model.methods import apply_methods
from sertune.model.methods.lora import is_update, load_adapter, save_adapter
from sertune.model.raters import RaterLayer
from sertune.model.speechbrain import SpeechBrainModel, find_speechbrain
from sertune.model.targets import CategoryTarget, JoinedTarget, RaterLabelTarget, RaterTarget, Target, target_from
from sertune.model.targets.joined import JoinedLayer

FORMAT = 1
ADAPTER = "adapter"
"""Folder of LoRA's updates beside the model's files."""


@dataclass
class ModelSpec:
    """All that is needed to build the model again, besides the weights."""

    encoder: str
    method: MethodConfig
    head: HeadConfig
    target: Target
    audio: AudioConfig = field(default_factory=AudioConfig)


@dataclass
class Vectors:
    """What the last, cheap part of a model reads of N clips (or windows of them).

    Attributes:
        head: pooled vectors of the head's layers, (N, layers, statistics).
        below: what the readout reads, (N, D); None without one.
    """

    head: Tensor
    below: Tensor | None

    def __len__(self) -> int:
        return len(self.head)

    def cpu(self) -> "Vectors":
        """The same in float32 on the CPU."""
        return Vectors(self.head.float().cpu(), None if self.below is None else self.below.float().cpu())

    @staticmethod
    def cat(parts: "Sequence[Vectors]") -> "Vectors":
        """The clips of all parts, in order."""
        below = [part.below for part in parts if part.below is not None]
        return Vectors(torch.cat([part.head for part in parts]), torch.cat(below) if below else None)


class EmotionModel(nn.Module):
    """Encoder + head + target.

    Args:
        encoder: split at the cut; the method is applied here.
        spec: what to build on it.
    """

    def __init__(self, encoder: Encoder, spec: ModelSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.spec = spec
        self.target = spec.target
        encoder.features.silence, encoder.features.level = spec.audio.silence, spec.audio.level
        apply_methods(encoder, spec.method)
        self.head = Head(
            spec.head, encoder.depth, encoder.cut, encoder.width, spec.target.linear, spec.target.last_layer
        )
        if encoder.cut < encoder.depth and encoder.depth not in self.head.layers:
            raise SertuneError(
                f"head.layers = {list(self.head.layers)}: the head must read layer {encoder.depth}, the output, "
                f"or the last of the layers that method {spec.method.name} trains would learn nothing"
            )
        self.trained_names = [name for name, p in encoder.model.named_parameters() if p.requires_grad]
        self.info: dict[str, Any] = {}

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the encoder that the method trains."""
        return [self.encoder.model.get_parameter(name) for name in self.trained_names]

    @property
    def start(self) -> int | None:
        """Layer where replay starts and states are kept frame by frame; None if pooled vectors are enough.

        It is the cut, or lower where the head pools frames of lower layers.
        """
        lowest = self.head.lowest_frames
        if lowest is None:
            return self.encoder.cut if self.encoder.cut < self.encoder.depth else None
        return min(self.encoder.cut, lowest)

    def forward(
        self, batch: Batch, augment: AugmentConfig | None = None, mixup: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Outputs (B, K) in float32: of the trained head in training mode, blended with the readout's in eval mode.

        Args:
            batch: states, or audio where the front trains, or pooled vectors alone (then the encoder is as
                pre-trained and the head alone computes).
            augment: feature-space augmentation of the entering states.
            mixup: partners (B,) and weights (B, 1) with which pooled vectors are mixed.
        """
        vectors = self.vectors(batch, augment)
        if mixup is not None:
            partner, weight = mixup[0].to(vectors.device), mixup[1].to(vectors.device)[:, :, None]
            vectors = weight * vectors + (1 - weight) * vectors[partner]
        slots = self.target.slots(batch.targets)
        return self.outputs(Vectors(vectors, None if self.training else self._below(batch)), slots)

    def outputs(self, vectors: "Vectors", slots: Tensor | None = None) -> Tensor:
        """Outputs (B, K) in float32 of what the head and, where there is one, the readout read.

        Args:
            vectors: of the clips.
            slots: (B, R) annotators whose own outputs are wanted; see `sertune.model.targets.rater`.
        """
        device = self.head.mean.device
        slots = None if slots is None else slots.to(device)
        hidden = self.head.hidden(vectors.head.to(device))
        outputs = self.head.read(hidden, slots).float()
        if self.training:
            return outputs
        if self.head.readout is not None and vectors.below is not None:
            outputs = self.target.blend(outputs, self.head.readout(vectors.below.to(device)), self.head.blend)
        return self.target.finish(outputs, slots, self.head.output, hidden)

    @property
    def rater_part(self) -> tuple[RaterTarget | RaterLabelTarget, RaterLayer] | None:
        """The target of annotators with its last layer; None where annotators are not predicted."""
        joined = isinstance(self.target, JoinedTarget)
        targets = self.target.parts if isinstance(self.target, JoinedTarget) else (self.target,)
        layers = self.head.output.layers if isinstance(self.head.output, JoinedLayer) else [self.head.output]
        for target, layer in zip(targets, layers, strict=joined):
            if isinstance(target, (RaterTarget, RaterLabelTarget)) and isinstance(layer, RaterLayer):
                return target, layer
        return None

    @torch.no_grad()
    def annotators(self, vectors: "Vectors", own: Tensor | None = None) -> Tensor:
        """(B, A', V) values in [-1, 1], or logits, of annotators for clips, blended with the readout.

        Args:
            vectors: of the clips.
            own: own parts of A' annotators, as in `RaterLayer.own`; those of all known annotators if not given.

        Raises:
            SertuneError: the model does not predict annotators.
        """
        found = self.rater_part
        if found is None:
            raise SertuneError(f"the model predicts no single annotators (target {self.target.name})")
        target, layer = found
        device = self.head.mean.device
        average, features = layer.parts(self.head.hidden(vectors.head.to(device)))
        values = layer.everyone(average, features) if own is None else layer.values(average, features, own.to(device))
        count, width = values.shape[1], values.shape[2]
        columns = torch.cat([average, values.flatten(1)], dim=1)
        if self.head.readout is not None and vectors.below is not None:
            solved = self.head.readout(vectors.below.to(device))
            if isinstance(self.target, JoinedTarget):
                solved = solved[:, -target.linear :]  # annotators are the last part
            columns = target.blend(columns, solved, self.head.blend)
        return columns[:, width:].reshape(len(columns), count, width)

    def batch_annotators(self, batch: Batch) -> Tensor:
        """(B, A', V): `annotators` of a batch."""
        return self.annotators(Vectors(self.vectors(batch), self._below(batch)))

    def hidden_and_outputs(self, batch: Batch) -> Tensor:
        """(B, width + K): what the last layer reads of a batch, and the outputs, side by side."""
        vectors = self.vectors(batch)
        outputs = self.outputs(Vectors(vectors, self._below(batch)), self.target.slots(batch.targets))
        return torch.cat([self.head.hidden(vectors).float(), outputs], dim=1)

    def _below(self, batch: Batch) -> Tensor | None:
        """What the readout reads, (B, D)."""
        readout = self.head.readout
        return readout.features(batch.pooled) if readout is not None and batch.pooled is not None else None

    def vectors(self, batch: Batch, augment: AugmentConfig | None = None) -> Tensor:
        """Pooled vectors of the head's layers, (B, layers, statistics)."""
        if batch.audio is not None:
            fronts = [self.encoder.front(clip) for clip in batch.audio]
            entering, start = pad_states([front.states[0] for front in fronts]), 0
        elif batch.entering is not None and self.start is not None:
            entering, start = batch.entering, self.start
        else:
            return self.head.pool([], self.encoder.depth, batch.pooled)
        entering = LayerStates(half_where_autocast(entering.states), entering.lengths)
        if augment is not None:
            entering = augment_states(entering, augment, self.frames_per_second)
        return self.head.pool(self._replay(self.encoder.lay_out(entering), start), start, batch.pooled)

    def _replay(self, entering: LayerStates, start: int) -> list[LayerStates]:
        """Frozen layers between ``start`` and the cut run without gradients."""
        if start >= self.encoder.cut:
            return self.encoder.replay(entering, start)
        with torch.no_grad():
            below = self.encoder.replay(entering, start, stop=self.encoder.cut)
        return below[:-1] + self.encoder.replay(below[-1], self.encoder.cut)

    @property
    def frames_per_second(self) -> float:
        """Frames of the layers' states per second of audio."""
        return self.encoder.frames_per_second

    @torch.no_grad()
    def predict_audio(self, clips: Sequence[np.ndarray]) -> Tensor:
        """Outputs (N, K) for clips of samples at `Encoder.rate`; each as if it were alone.

        Clips longer than the crop are cut into windows of equal length, whose outputs are averaged.
        """
        self.eval()
        return torch.cat([self._windows(clip).mean(0, keepdim=True) for clip in clips])

    def _windows(self, clip: np.ndarray) -> Tensor:
        return torch.cat([self(self._batch_of(window)).cpu() for window in self._cut(clip)])

    def _cut(self, clip: np.ndarray) -> list[np.ndarray]:
        """Windows of equal length, none longer than the crop."""
        longest = int(self.spec.audio.crop * self.encoder.rate)
        return np.array_split(clip, max(1, -(-len(clip) // longest)))

    @torch.no_grad()
    def clip_vectors(self, clip: np.ndarray) -> "Vectors":
        """What the head and the readout read of one clip's windows, on the CPU; `outputs` takes it.

        Args:
            clip: samples (N,) at `Encoder.rate`.
        """
        self.eval()
        made = []
        for window in self._cut(clip):
            batch = self._batch_of(window)
            made.append(Vectors(self.vectors(batch), self._below(batch)).cpu())
        return Vectors.cat(made)

    def _batch_of(self, audio: np.ndarray) -> Batch:
        """One window as a batch of its own."""
        missing = self.target.missing(1)
        if self.encoder.front_trains:
            return collate([], missing, [""], audio=[audio])
        # the cut is where the readout ends; above it only a frozen encoder's pooled vectors are read, as far up as the
        # head reads
        highest = max(self.head.layers)
        top = self.encoder.cut if self.start is not None else highest if highest < self.encoder.depth else None
        clip = self.encoder.clip_states(audio, self.start, top=top)
        return collate([clip], missing, [""]).to(self.encoder.device)

    # -- saving ------------------------------------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """What was trained, plus the head with its buffers: name -> tensor."""
        trained = {f"encoder.{name}": self.encoder.model.get_parameter(name) for name in self.trained_names}
        head = {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return {name: tensor.detach() for name, tensor in {**trained, **head}.items()}

    @torch.no_grad()
    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Sets what `trained_state` gave; strict.

        Raises:
            SertuneError: names or shapes differ.
        """
        own = self.trained_state()
        if "head.source_mean" not in tensors:  # written by an earlier sertune: only adaptation needs them
            lost = ("head.source_mean", "head.source_spread")
            tensors = {**tensors, **{name: torch.full_like(own[name], torch.nan) for name in lost}}
        if strange := sorted(set(own) ^ set(tensors)):
            raise SertuneError(f"model.safetensors does not fit its model.json: {strange[0]!r} is missing or unknown")
        for name, tensor in tensors.items():
            if own[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
                raise SertuneError(f"model.safetensors does not fit its model.json: {name} has shape {shapes}")
            own[name].copy_(tensor)

    def save(self, folder: Path, info: dict[str, Any] | None = None, *, base: str = "") -> None:
        """Writes ``model.safetensors`` and ``model.json`` into ``folder``; complete or not at all.

        LoRA's updates are in ``adapter/`` beside them, in PEFT's format, and nowhere else.

        Args:
            folder: made if needed.
            info: what else to remember, e.g. what it was trained on.
            base: where the base encoder is as seen from ``folder``, if both are to move together.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        spec = self.spec
        # where the updates once started is in the run's settings; what became of them is in ``adapter/``
        method = replace(self.encoder.resolved(spec.method), lora=replace(spec.method.lora, start=""))
        description = {
            "format": FORMAT,
            "encoder": {"name": spec.encoder, "path": base or _absolute(spec.encoder), "digest": self.base_digest},
            # of both not a default that may change
            "method": asdict(method),
            "head": {**spec.head.__dict__, "layers": list(self.head.layers)},
            "target": spec.target.describe(),
            "audio": {**spec.audio.__dict__, "rate": self.encoder.rate},
            "info": info if info is not None else self.info,
        }
        state = {name: tensor for name, tensor in self.trained_state().items() if not is_update(name)}
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}
        if "lora" in spec.method.parts:
            save_adapter(self.encoder, folder / ADAPTER, spec.method.lora)
        with replacing(folder / "model.safetensors") as part:
            save_file(tensors, part)
        with replacing(folder / "model.json") as part:
            part.write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")

    @property
    def base_digest(self) -> str:
        """Digest of the encoder as it was pre-trained."""
        return self.encoder.digest


def _absolute(encoder: str) -> str:
    return str(Path(encoder).resolve()) if Path(encoder).is_dir() else ""


def find_model(path: str | Path) -> Path:
    """The folder with ``model.json``: ``path`` itself or its ``model/``; or that of `builtin:emotion`.

    Raises:
        SertuneError: neither has one.
    """
    folder = EMBEDDED / "emotion" if str(path) == EMOTION else Path(path)
    found = next((candidate for candidate in (folder, folder / "model") if _holds_model(candidate)), None)
    if found is not None:
        return found
    if not folder.exists():
        raise SertuneError(
            f"{path}: no such model folder; give a run folder of sertune train, its model/, or a model of SpeechBrain"
        )
    raise SertuneError(f"{path}: no model.json and model.safetensors in it or in its model/; is the run finished?")


def is_model(path: str | Path) -> bool:
    """Whether ``path`` is the folder of a saved model, or of the run that made it, or the embedded one's name."""
    return str(path) == EMOTION or _holds_model(Path(path)) or _holds_model(Path(path) / "model")


def _holds_model(folder: Path) -> bool:
    return (folder / "model.json").is_file() and (folder / "model.safetensors").is_file()


def load_model(path: str | Path, *, encoder: str | None = None, device: str = "cpu") -> EmotionModel:
    """A saved model, or one that SpeechBrain trained (`sertune.model.speechbrain`).

    Args:
        path: a run folder or its ``model/``; `builtin:emotion`; or a folder in SpeechBrain's layout, or its name on the
            hub.
        encoder: where the base encoder is now, if it moved.
        device: where to put it.

    Raises:
        SertuneError: no model there, a damaged file, or another base encoder than the one it was trained on.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    theirs = _speechbrain(path)
    if theirs is not None:
        if encoder is not None:
            raise SertuneError(
                f"--encoder {encoder}: {path} is a model of SpeechBrain and holds its encoder; leave it out"
            )
        return _from_speechbrain(theirs).to(device).eval()
    folder = find_model(path)
    spec, trained_on, info = _read_description(folder / "model.json")
    try:
        tensors = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise SertuneError(f"{folder / 'model.safetensors'}: damaged ({' '.join(str(error).split())})") from None
    place = encoder or _base_place(folder, trained_on)
    if place == RANDOM or (trained_on["path"] and not Path(trained_on["path"]).is_absolute()):
        spec = replace(spec, encoder=place)
    base = load_encoder(place, check=False)
    if base.digest != trained_on["digest"]:
        raise SertuneError(
            f"{folder}: trained on encoder {trained_on['name']} with digest {trained_on['digest'][:12]}, "
            f"but {base.name} has digest {base.digest[:12]}; give the right base with --encoder"
        )
    try:
        model = EmotionModel(base, spec)
        model.load_trained({**tensors, **_updates(model, folder)})
    except SertuneError as error:
        raise SertuneError(f"{folder}: {error}") from None
    model.info = info
    return model.to(device).eval()


def _speechbrain(path: str | Path) -> SpeechBrainModel | None:
    """The model in SpeechBrain's layout in a folder, or on the hub; None where the name can be neither.

    Only ``ORGANISATION/NAME`` is looked for on the hub, and not where a folder ORGANISATION is here: then it is taken
    for a path, and a slip in the name of a run is not sent to the hub.

    Raises:
        SertuneError: there is no such model, or its settings can't be read.
    """
    name, folder = str(path), Path(path)
    if folder.exists():
        return None if _holds_model(folder) else find_speechbrain(name, local=True)
    if len(folder.parts) != 2 or folder.is_absolute() or name.startswith((".", "~")) or folder.parent.exists():
        return None
    away = not hub_answers(name)
    found = find_speechbrain(name, local=away)
    if found is None:
        why = "was downloaded before, and the model hub can't be reached" if away else "is on the hub"
        raise SertuneError(
            f"{name}: no such model folder, and no model of SpeechBrain with that name {why}; give a run folder of "
            "sertune train, or its model/"
        )
    return found


def _from_speechbrain(theirs: SpeechBrainModel) -> EmotionModel:
    """The mean of the last layer's frames and a linear layer, on samples as they are."""
    classifier = theirs.classifier()
    encoder = Encoder(*theirs.encoder(), theirs.name)
    if classifier.weight.shape[1] != encoder.width:
        raise SertuneError(
            f"{theirs.name}: its head reads {classifier.weight.shape[1]} channels, the encoder has {encoder.width}"
        )
    head, audio = HeadConfig(mix="last", dropout=0.0), AudioConfig(silence=0.0, level=0.0)
    spec = ModelSpec(theirs.name, MethodConfig("frozen"), head, CategoryTarget(classifier.labels), audio)
    model = EmotionModel(encoder, spec)
    model.head.start_from(classifier.weight, classifier.bias)
    for unknown in (model.head.source_mean, model.head.source_spread):  # only adaptation needs them
        unknown.fill_(torch.nan)
    model.info = {"source": f"SpeechBrain model {theirs.name}"}
    return model


def _updates(model: EmotionModel, folder: Path) -> dict[str, Tensor]:
    """LoRA's part of the trained state, from ``adapter/``; empty without LoRA."""
    if "lora" not in model.spec.method.parts:
        return {}
    load_adapter(model.encoder, folder / ADAPTER, model.spec.method.lora)
    return {name: tensor for name, tensor in model.trained_state().items() if is_update(name)}


def _read_description(file: Path) -> tuple[ModelSpec, dict[str, str], dict[str, Any]]:
    """What to build; the base encoder's name, path and digest; what else is remembered.

    Raises:
        SertuneError: the file is damaged, or a newer sertune wrote it.
    """
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        if description["format"] > FORMAT:
            raise SertuneError(f"has format {description['format']}, this sertune reads up to {FORMAT}; update sertune")
        base = {key: str(description["encoder"][key]) for key in ("name", "path", "digest")}
        # models from before these settings took samples as they were
        audio = {
            "silence": 0.0,
            "level": 0.0,
            **{key: value for key, value in description["audio"].items() if key != "rate"},
        }
        settings = from_dict({"method": description["method"], "head": description["head"], "audio": audio})
        target = target_from(description["target"])
        return (
            ModelSpec(base["name"], settings.method, settings.head, target, settings.audio),
            base,
            description["info"],
        )
    except KeyError as error:
        raise SertuneError(f"{file}: damaged, it has no {error}") from None
    except SertuneError as error:
        raise SertuneError(f"{file}: {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise SertuneError(f"{file}: damaged, or not the description of a model ({error})") from None


def _base_place(folder: Path, encoder: dict[str, str]) -> str:
    """Where the base encoder is: the folder it was in, seen from here or by its full path, or its hub name.

    A model that was saved together with its encoder says where it is as seen from its own folder.
    """
    path = encoder["path"]
    beside = path and not Path(path).is_absolute()
    if beside:
        path = os.path.normpath(folder / path)
    if path and (beside or not Path(encoder["name"]).is_dir()):
        if not Path(path).is_dir():
            raise SertuneError(
                f"{folder}: its base encoder is no longer at {path}; say where it is with --encoder FOLDER"
            )
        return path
    if encoder["name"] == BUILTIN and encoder["digest"] == RANDOM_DIGEST:
        return RANDOM
    return encoder["name"]
