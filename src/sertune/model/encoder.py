"""A pre-trained speech encoder, split at the cut.

The list of layers is found structurally in any transformers speech model. A forward pre-hook on the first layer
ends the model's own forward there and gives the states that enter it and the keyword inputs of the layers
(``front``). From then on the layers are called one by one (``replay``): on one unpadded clip; on packed clips, one
sequence without padding, where the family calls its attention through transformers' interface (`attention.py`); or on
a padded batch, for which the keyword inputs are rebuilt by four rules (`_masks`). What the model calls after its
last layer (a final norm, an upsampling) is found by watching one forward pass. Where the model's configuration says
``output_norm``, as those of SpeechBrain's models do, the output of each clip is normalised as a whole after that. On
loading, the split is compared with the whole model.
"""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sertune.config import MethodConfig, auto_layers
from sertune.data.batch import ClipStates, LayerStates, pad_states
from sertune.errors import AudioError, SertuneError
from sertune.model import attention
from sertune.model.dropout import FastDropout
from sertune.model.features import Features, load_features
from sertune.model.loading import UNUSED, check_weights, explain, hub_answers
from sertune.model.prompt import PROMPT, Prompt
from sertune.model.speechbrain import find_speechbrain

LOUDEST = 1e6
"""Largest sample, full scale 1.0, that is taken for audio; 16-bit numbers as floats, a slip that does no harm, pass."""
NORM_EPS = 1e-5
"""Added to the variance in `normalised`."""
SPLIT_TOLERANCE = 1e-4
"""Largest difference between the split and the whole model, relative to the size of the states."""
SHORT_CLIP_SECONDS = 0.5
"""Only clips shorter than this are compared with the front's smallest input."""
INPUTS = ("input_values", "input_features")
FAMILIES = (
    "expected a speech encoder: wav2vec 2.0, HuBERT, WavLM, Data2Vec-audio, UniSpeech-SAT, SEW, w2v-BERT or Whisper"
)


@dataclass
class _Kinds:
    """How the layers want their keyword inputs, as found on a first pass."""

    mask_rank: int = 4
    constants: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()


class _StopForwardError(Exception):
    """Ends the model's forward at the first layer."""


class Encoder(nn.Module):
    """A speech encoder whose layers can be replayed from any depth.

    Args:
        model: a transformers speech model, in eval mode, weights in float32.
        features: turns samples into the model's input.
        name: how the user named it.
        check: compare the split with the whole model on noise.

    Attributes:
        cut: the first layer with a trainable parameter; everything below runs in eval mode, without gradients,
            one clip at a time. ``len(layers)`` when nothing trains.
        front_trains: whether the part below the layers trains too (then ``cut`` is 0).
        packs: whether the layers take packed states; others want padded ones.
        kernel: how packed states are attended to.
        checkpointing: whether layers that train are computed again for the backward pass, to save memory.
        output_norm: whether the output of each clip is brought to zero mean and unit variance over all its frames and
            channels (`normalised`); from the model's configuration.
    """

    def __init__(self, model: nn.Module, features: Features, name: str, *, check: bool = True) -> None:
        super().__init__()
        self.model = model.eval()
        self.features = features
        self.name = name
        self.output_norm = bool(getattr(model.config, "output_norm", False))
        self._layers_path, layers = _find_layers(model, name)
        self.depth = len(layers)
        self.cut = self.depth
        self.front_trains = False
        self._tail_paths: tuple[str, ...] = ()
        self._digest = ""
        self._min_samples = 0
        self._undo: list[Callable[[], None]] = []
        self.kernel: attention.Kernel = "sdpa"
        self.checkpointing = False
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._kinds = self._inspect()
        self.packs = self._takes_packed()
        if check:
            self._check_split()

    # -- structure ---------------------------------------------------------------------------------------------

    @property
    def rate(self) -> int:
        """Sampling rate of the input in Hz."""
        return self.features.rate

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers."""
        found = self.model.get_submodule(self._layers_path)
        assert isinstance(found, nn.ModuleList)
        return found

    @property
    def tail(self) -> list[nn.Module]:
        """What the model applies after its last layer (a norm, an upsampling), in order."""
        return [self.model.get_submodule(path) for path in self._tail_paths]

    @property
    def width(self) -> int:
        """Channels of the hidden states."""
        config: Any = self.model.config
        return int(config.hidden_size)

    @property
    def peft_prefix(self) -> str:
        """What comes before the names of the encoder's modules in the model that ``AutoModel`` gives."""
        config: Any = self.model.config
        return "encoder." if config.is_encoder_decoder else ""

    def front_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters below the first layer that the output depends on."""
        above = {id(p) for module in [self.layers, *self.tail] for p in module.parameters()}
        named = [(n, p) for n, p in self.model.named_parameters() if id(p) not in above]
        for _, parameter in named:
            parameter.requires_grad_(True)
        noise = self.noise(0.5)
        self.front(noise).states.square().sum().backward()
        used = [(name, parameter) for name, parameter in named if parameter.grad is not None]
        for _, parameter in named:
            parameter.requires_grad_(False)
            parameter.grad = None
        return used

    def parameters_from(self, cut: int) -> list[nn.Parameter]:
        """Parameters of the layers from ``cut`` on and of the tail, in order."""
        modules = [*self.layers[cut:], *self.tail]
        return [parameter for module in modules for parameter in module.parameters()]

    def first_of_last(self, layers: int | Literal["auto", "all"]) -> int:
        """The first of the last ``layers`` layers; ``auto``: of the last two, or of all where it has fewer.

        Raises:
            SertuneError: the encoder has fewer layers than are named.
        """
        if layers == "all":
            return 0
        if layers == "auto":
            return self.depth - auto_layers(self.depth)
        if not 1 <= layers <= self.depth:
            raise SertuneError(
                f"method.layers = {layers}: encoder {self.name} has {self.depth} layers; choose 1 to {self.depth}"
            )
        return self.depth - layers

    def resolved(self, method: MethodConfig) -> MethodConfig:
        """A method with the number of layers that ``auto`` stands for in this encoder."""
        return replace(method, layers=auto_layers(self.depth)) if method.layers == "auto" else method

    def set_trainable(self, parameters: Sequence[nn.Parameter], cut: int, *, front: bool = False) -> None:
        """Marks what trains, beside what already does; called by the methods.

        Args:
            parameters: parameters of the encoder that train.
            cut: first layer that holds one of them; `depth` if there is none.
            front: whether parameters below the first layer are among them.
        """
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.cut = min(self.cut, cut)
        self.front_trains = self.front_trains or front

    def on_clear(self, undo: Callable[[], None]) -> None:
        """Notes how to take away what a method adds to the model."""
        self._undo.append(undo)

    def clear(self) -> None:
        """Takes away what methods added, and freezes all; trained weights are left as they are."""
        while self._undo:
            self._undo.pop()()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.cut = self.depth
        self.front_trains = False

    def train(self, mode: bool = True) -> "Encoder":
        """Layers above the cut follow ``mode``; all below stays in eval mode."""
        super().train(False)
        self.training = mode
        for layer in self.layers[self.cut :]:
            layer.train(mode)
        return self

    def use_attention(self, kernel: attention.Kernel) -> None:
        """Sets how attention is computed; see `attention.Packing`.

        Families with an attention of their own keep it, or take transformers' closest.

        Raises:
            SertuneError: `flash` for a family that does not pack.
        """
        if not self.packs and kernel == "flash":
            raise SertuneError(f"attention = flash: encoder {self.name} has an attention of its own; choose auto")
        self.kernel = kernel
        model: Any = self.model
        if not self.packs and model._can_set_attn_implementation():
            model.set_attn_implementation("eager" if kernel == "plain" else "sdpa")

    def halve_frozen(self, dtype: torch.dtype) -> None:
        """Holds the weights of linear maps and convolutions that don't train in half precision.

        Autocast would convert them at every call; the numbers are the same. Call it under no other precision than the
        one that computes from now on, and load the encoder anew for another method.
        """
        _ = self.digest, self.frames_per_second, self.min_samples  # these compute in float32
        for module in self.model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                for parameter in module.parameters(recurse=False):
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.to(dtype)

    def forget_digest(self) -> None:
        """Has `digest` taken anew, of weights that have changed since: as another encoder."""
        self._digest = ""

    @property
    def digest(self) -> str:
        """Digest of all weights (names, shapes and float32 values), taken once, before anything trains."""
        if not self._digest:
            digest = hashlib.blake2b(digest_size=16)
            for name, tensor in sorted(self.model.state_dict().items()):
                if name.endswith(UNUSED):  # random wherever a checkpoint lacks it
                    continue
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
            if self.output_norm:  # the same weights without it are another encoder
                digest.update(b"output_norm")
            self._digest = digest.hexdigest()
        return self._digest

    def described(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"name": self.name, "digest": self.digest, "layers": self.depth, "width": self.width}

    # -- forward -----------------------------------------------------------------------------------------------

    def front(self, audio: np.ndarray) -> "LayerStates":
        """States that enter the first layer, for one clip alone and unpadded.

        Args:
            audio: (samples,) float32 at `rate`.

        Raises:
            AudioError: the clip is shorter than the front's first window, or its samples are no audio.
        """
        self._check_length(audio)
        peak = float(np.abs(audio).max(initial=0.0))
        if peak > LOUDEST:
            raise AudioError("clip", f"has a peak of {peak:g} times full scale; 1 is usual")
        inputs = {key: value.to(self.device) for key, value in self.features(audio).items()}
        states = self._stopped_forward(inputs)["hidden_states"]
        return LayerStates(states, torch.tensor([states.shape[1]], device=states.device))

    @torch.no_grad()
    def clip_states(self, audio: np.ndarray, start: int | None, *, top: int | None = None) -> ClipStates:
        """Runs one clip alone through the encoder in eval mode.

        Args:
            audio: (samples,) float32 at `rate`.
            start: layer whose input is kept frame by frame; None keeps pooled vectors alone.
            top: the last layer whose input is pooled, not below ``start``; None goes to the model's output.
        """
        frames, pooled = self.clip_layers(audio, [] if start is None else [start], top=top)
        return ClipStates(None if start is None else frames[start], pooled)

    @torch.no_grad()
    def clip_layers(
        self, audio: np.ndarray, layers: Sequence[int], *, top: int | None = None
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Runs one clip alone through the encoder in eval mode, and keeps what enters several layers.

        Args:
            audio: (samples,) float32 at `rate`.
            layers: whose inputs are kept frame by frame.
            top: the last layer whose input is pooled, not below ``layers``; None goes to the model's output.

        Returns:
            Frames (T, D) by layer, and pooled vectors (layers + 1, 2 D) up to ``top``; see `ClipStates`.
        """
        was_training = self.training
        self.eval()
        hidden = self.replay(self.lay_out(self.front(audio)), 0, top)
        self.train(was_training)
        return {layer: _kept(hidden[layer]) for layer in layers}, _pooled(hidden)

    @torch.no_grad()
    def lift(self, frames: Tensor, start: int, layers: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Goes on with the kept frames of one clip, through layers as they are now.

        Args:
            frames: (T, D) that enter layer ``start``.
            start: of them.
            layers: above it, whose inputs are wanted; `depth` is the model's output.

        Returns:
            Frames (T, D) by layer, and pooled vectors (n, 2 D) of layer ``start`` and those above it, up to the last of
            ``layers``.
        """
        last = max(layers, default=self.depth)
        entering = self.lay_out(pad_states([frames.to(self.device)]))
        hidden = self.replay(entering, start, None if last == self.depth else last)
        return {layer: _kept(hidden[layer - start]) for layer in layers}, _pooled(hidden)

    def lay_out(self, entering: LayerStates) -> LayerStates:
        """Padded states as the layers take them best: packed, if they can."""
        return entering.pack() if self.packs else entering

    def replay(self, entering: LayerStates, start: int, stop: int | None = None) -> list[LayerStates]:
        """The layers from ``start`` on, and the tail.

        Args:
            entering: what enters layer ``start``, padded, or packed if `packs`.
            start: 0 to `depth`.
            stop: layer before which to end, without the tail; None runs to the end.

        Returns:
            What enters each layer from ``start`` on, and the output of the model last: ``depth - start + 1``; all
            packed or padded, as given.
        """
        hidden = [entering]
        inputs = self._layer_inputs(entering)
        for layer in list(self.layers)[start:stop]:
            hidden.append(self._call(layer, hidden[-1], inputs))
        if stop is None:
            hidden[-1] = self._apply_tail(hidden[-1])
        return hidden

    @cached_property
    def frames_per_second(self) -> float:
        """Frames of the layers' states per second of audio, measured on noise."""
        seconds = 4.0
        with torch.no_grad():
            return self.front(self.noise(seconds)).states.shape[1] / seconds

    def noise(self, seconds: float) -> np.ndarray:
        """Seeded white noise, (samples,) float32, for trials."""
        noise = np.random.default_rng(0).standard_normal(int(seconds * self.rate))
        return (0.1 * noise).astype(np.float32)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def _call(self, layer: nn.Module, entering: LayerStates, inputs: dict[str, Any]) -> LayerStates:
        """One layer, with its prompt if it has one."""
        prompt = getattr(layer, PROMPT, None)
        if isinstance(prompt, Prompt):
            longer = prompt.insert(entering)
            inputs = self._layer_inputs(longer, prompt.bias())
            return prompt.remove(self._compute(layer, longer, inputs))
        return self._compute(layer, entering, inputs)

    def _compute(self, layer: nn.Module, entering: LayerStates, inputs: dict[str, Any]) -> LayerStates:
        def call(states: Tensor) -> Tensor:
            with FastDropout() if layer.training and not states.is_cuda else nullcontext(), warnings.catch_warnings():
                if self._kinds.mask_rank == 2:
                    # WavLM hands torch a boolean and a float mask together, which torch warns of
                    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
                result = layer(states, **inputs)
            made: Tensor = result[0] if isinstance(result, tuple) else result
            return made

        if self.checkpointing and layer.training and torch.is_grad_enabled():
            states = checkpoint(call, entering.states, use_reentrant=False)
        else:
            states = call(entering.states)
        return LayerStates(states, entering.lengths, entering.packed)

    def _apply_tail(self, last: LayerStates) -> LayerStates:
        states, lengths = last.states, last.lengths
        for module in self.tail:
            frames = states.shape[1]
            states = module(states)
            lengths = lengths * (states.shape[1] // frames)
        made = LayerStates(states, lengths, last.packed)
        return normalised(made) if self.output_norm else made

    def _layer_inputs(self, entering: LayerStates, bias: Tensor | None = None) -> dict[str, Any]:
        """The keyword inputs of a layer.

        Args:
            entering: what goes in.
            bias: (P,) added to the attention scores of each clip's first P frames, which are its prompt.
        """
        if entering.packed:
            packing = attention.Packing(entering.lengths.tolist(), self.kernel, bias)
            return {**self._kinds.constants, "attention_mask": packing}
        return self._masks(entering, bias)

    def _masks(self, entering: LayerStates, bias: Tensor | None) -> dict[str, Any]:
        """The keyword inputs for a padded batch: four rules."""
        states, lengths = entering.states, entering.lengths
        padded = bool((lengths < states.shape[1]).any())
        mask = entering.inside() if padded else None
        inputs = dict(self._kinds.constants)
        for name in self._kinds.names:
            if name == "attention_mask":
                inputs[name] = mask if self._kinds.mask_rank == 2 else self._mask_4d(states, mask, bias)
            elif name == "conv_attention_mask":
                inputs[name] = mask
            elif name == "position_bias":
                inputs[name] = self._position_bias(len(states), states.shape[1], bias)
            elif name == "relative_position_embeddings":
                embed = self._parent().get_submodule("embed_positions")
                inputs[name] = embed(states)
        return inputs

    def _mask_4d(self, states: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
        """The mask as the model's own attention implementation wants it (boolean or additive)."""
        from transformers.masking_utils import create_bidirectional_mask

        made: Tensor | None = None
        if mask is not None:
            made = create_bidirectional_mask(config=self.model.config, inputs_embeds=states, attention_mask=mask.long())
        if bias is None:
            return made
        columns = nn.functional.pad(bias, (0, states.shape[1] - len(bias))).to(states.dtype)[None, None, None]
        if made is None:
            return columns.expand(1, 1, states.shape[1], -1)
        return columns.masked_fill(~made, torch.finfo(states.dtype).min) if made.dtype == torch.bool else made + columns

    def _position_bias(self, batch: int, frames: int, bias: Tensor | None) -> Tensor:
        """WavLM's relative position bias, which its first layer computes for all: (B * heads, T, T).

        Prompts have no position: their rows are zero, and their columns hold their own bias.
        """
        for module in self.layers[0].modules():
            if hasattr(module, "compute_bias"):
                compute: Any = module.compute_bias
                prompts = 0 if bias is None else len(bias)
                relative: Tensor = compute(frames - prompts, frames - prompts)
                if bias is not None:
                    relative = nn.functional.pad(relative, (prompts, 0, prompts, 0))
                    relative = relative + nn.functional.pad(bias, (0, frames - prompts))
                return relative.repeat(batch, 1, 1)
        raise SertuneError(f"encoder {self.name}: its layers want a position_bias, but none computes one")

    # -- found on loading --------------------------------------------------------------------------------------

    def _parent(self) -> nn.Module:
        return self.model.get_submodule(self._layers_path.rpartition(".")[0])

    def _stopped_forward(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The arguments with which the model calls its first layer."""
        caught: dict[str, Any] = {}
        layer = self.layers[0]

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = inspect.signature(layer.forward).bind(*args, **kwargs).arguments
            caught.update(bound.pop("kwargs", {}), **bound)
            raise _StopForwardError

        handle = layer.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._whole(inputs)
        except _StopForwardError:
            pass
        finally:
            handle.remove()
        return caught

    def _whole(self, inputs: dict[str, Tensor]) -> Tensor:
        """The model's own forward, (B, T, D); where its output is normalised, of clips without padding."""
        whisper = self._is_whisper()
        output: Tensor = self._whole_whisper(**inputs) if whisper else self.model(**inputs).last_hidden_state
        return nn.functional.layer_norm(output, output.shape[1:]) if self.output_norm else output

    def _is_whisper(self) -> bool:
        config: Any = self.model.config
        return bool(config.model_type == "whisper")

    def _whole_whisper(self, input_features: Tensor) -> Tensor:
        """Whisper's encoder with its positions cropped to the clip; its own forward insists on 30 s."""
        model: Any = self.model
        states = nn.functional.gelu(model.conv1(input_features))
        states = nn.functional.gelu(model.conv2(states)).permute(0, 2, 1)
        positions = model.embed_positions.weight
        if states.shape[1] > len(positions):
            seconds = (
                len(positions)
                / (states.shape[1] / input_features.shape[2])
                * self.features.hop
                / self.features.model_rate
            )
            raise SertuneError(
                f"encoder {self.name} takes at most {seconds:.0f} s at once; set --audio.crop to that or less"
            )
        states = states + positions[: states.shape[1]]
        for layer in model.layers:
            states = layer(states, None)
        output: Tensor = model.layer_norm(states)
        return output

    @torch.no_grad()
    def _inspect(self) -> _Kinds:
        """Finds the tail, and which keyword inputs the layers want, on one forward pass over noise."""
        inputs = {k: v.to(self.device) for k, v in self.features(self.noise(0.5)).items()}
        self._tail_paths = self._watch_tail(inputs)
        given = self._stopped_forward(inputs)
        known = {"attention_mask", "conv_attention_mask", "position_bias", "relative_position_embeddings"}
        accepted = set(inspect.signature(self.layers[0].forward).parameters)
        strange = [k for k, v in given.items() if isinstance(v, Tensor) and k not in known | {"hidden_states"}]
        if strange:
            raise SertuneError(
                f"encoder {self.name}: its layers want the tensor input {strange[0]!r}, which sertune cannot "
                "rebuild for a padded batch; please report this model"
            )
        names = tuple(sorted(known & accepted))
        if "relative_position_embeddings" in names and given.get("relative_position_embeddings") is None:
            names = tuple(name for name in names if name != "relative_position_embeddings")
        constants = {
            key: value
            for key, value in given.items()
            if key not in known | {"hidden_states"} and not isinstance(value, Tensor)
        }
        return _Kinds(self._mask_rank(inputs), constants, names)

    def _mask_rank(self, inputs: dict[str, Tensor]) -> int:
        """Rank of the attention mask that the model itself gives its layers when a batch is padded."""
        if self._is_whisper():
            return 4
        value = next(iter(inputs.values()))
        doubled = {key: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for key, tensor in inputs.items()}
        # raw audio is masked in samples, mel features in frames
        mask = torch.ones(2, value.shape[1], dtype=torch.long, device=value.device)
        mask[1, mask.shape[1] // 2 :] = 0
        given = self._stopped_forward({**doubled, "attention_mask": mask}).get("attention_mask")
        return given.ndim if isinstance(given, Tensor) else 4

    @torch.no_grad()
    def _takes_packed(self) -> bool:
        """Whether the layers compute packed clips as they compute each alone; then that is how they are called."""
        model: Any = self.model
        mixes = any(isinstance(module, nn.Conv1d) for module in self.layers.modules())  # frames of neighbours
        if mixes or self._kinds.mask_rank == 2 or not model._can_set_attn_implementation():
            return False
        before = model.config._attn_implementation
        attention.register()
        model.set_attn_implementation(attention.NAME)
        clips = [self.front(self.noise(seconds)).states[0] for seconds in (0.5, 0.3)]
        packed = self.replay(pad_states(clips).pack(), 0)[-1].pad().states
        for row, clip in enumerate(clips):
            alone = self.replay(pad_states([clip]), 0)[-1].states[0]
            if not _close(packed[row, : len(alone)], alone):
                model.set_attn_implementation(before)
                return False
        return True

    def _watch_tail(self, inputs: dict[str, Tensor]) -> tuple[str, ...]:
        """Paths of the outermost modules that the model calls after its last layer."""
        tail: list[str] = []
        state = {"after": False, "depth": 0}

        def before(path: str) -> Any:
            def hook(*_: Any) -> None:
                if state["after"]:
                    if state["depth"] == 0:
                        tail.append(path)
                    state["depth"] += 1

            return hook

        def leave(*_: Any) -> None:
            # the modules around the layers were entered before and are not counted
            if state["after"] and state["depth"] > 0:
                state["depth"] -= 1

        def last(*_: Any) -> None:
            state["after"] = True

        handles = []
        for path, module in self.model.named_modules():
            if path and not path.startswith(self._layers_path):
                handles.append(module.register_forward_pre_hook(before(path)))
                handles.append(module.register_forward_hook(leave))
        handles.append(self.layers[-1].register_forward_hook(last))
        try:
            self._whole(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return tuple(tail)

    @torch.no_grad()
    def _check_split(self) -> None:
        """Compares split and whole on one clip, and a padded batch with its clips alone."""
        long, short = self.noise(1.0), self.noise(0.6)
        inputs = {k: v.to(self.device) for k, v in self.features(long).items()}
        whole = self._whole(inputs)
        if not bool(whole.isfinite().all()):
            raise SertuneError(
                f"encoder {self.name}: its output is not finite: its weights hold NaN, Inf or huge values"
            )
        alone = self.replay(self.front(long), 0)[-1].states
        frames = alone.shape[1]
        # SEW appends zeros to its upsampled output; they are left off here
        if whole.shape[1] < frames or not _close(alone, whole[:, :frames]) or whole[:, frames:].any():
            raise SertuneError(
                f"encoder {self.name}: its output is not its layers one after the other, so it can't be split; "
                "please report this model"
            )
        entering = [self.front(long), self.front(short)]
        together = pad_states([e.states[0] for e in entering])
        batch = self.replay(self.lay_out(together), 0)[-1].pad()
        second = self.replay(entering[1], 0)[-1].states[0]
        if not _close(batch.states[0, :frames], alone[0]) or not _close(batch.states[1, : len(second)], second):
            raise SertuneError(
                f"encoder {self.name}: a clip's states change with the padding beside it; please report this model"
            )

    # -- smallest input ----------------------------------------------------------------------------------------

    @property
    def min_samples(self) -> int:
        """Fewest samples that give a frame."""
        if not self._min_samples:
            low, high = 0, self.rate
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self._accepts(middle) else (middle, high)
            self._min_samples = high
        return self._min_samples

    @torch.no_grad()
    def _accepts(self, samples: int) -> bool:
        noise = self.noise(samples / self.rate + 1)[:samples]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inputs = {k: v.to(self.device) for k, v in self.features(noise).items()}
                states = self._stopped_forward(inputs)["hidden_states"]
            return bool(states.shape[1]) and bool(states.isfinite().all())
        except (RuntimeError, ValueError, IndexError, KeyError):
            return False

    def _check_length(self, audio: np.ndarray) -> None:
        if len(audio) < SHORT_CLIP_SECONDS * self.rate and len(audio) < self.min_samples:
            raise AudioError(
                "clip",
                f"too short: {len(audio)} samples at {self.rate} Hz; encoder {self.name} needs {self.min_samples}",
            )


def half_where_autocast(states: Tensor) -> Tensor:
    """States in bfloat16 where autocast computes in it: the layers' residual stream then is, too."""
    kind = states.device.type
    bf16 = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    return states.to(torch.bfloat16) if bf16 else states


def _kept(layer: LayerStates) -> Tensor:
    """(T, D) of one clip on the CPU, as precise as the run computes."""
    return half_where_autocast(layer.states[0]).cpu().clone()


def _pooled(hidden: Sequence[LayerStates]) -> Tensor:
    """(n, 2 D) mean and standard deviation of one clip's layers, on the CPU."""
    return torch.stack([mean_and_std(layer) for layer in hidden])[:, 0].cpu()


def mean_and_std(layer: LayerStates) -> Tensor:
    """Mean and population standard deviation over the frames that are not padding: (B, 2 D), float32."""
    count = layer.lengths[:, None].clamp_min(1)
    mean = layer.sums() / count
    if layer.packed:
        centred = layer.states.float() - torch.repeat_interleave(mean, layer.lengths, dim=0)[None]
    else:
        centred = layer.states.float() - mean[:, None]
    variance = LayerStates(centred.square(), layer.lengths, layer.packed).sums() / count
    # the square root has no slope at zero: clips of one frame would give NaN gradients
    return torch.cat([mean, (variance + 1e-12).sqrt()], dim=1)


def normalised(layer: LayerStates) -> LayerStates:
    """Each clip with zero mean and unit variance over all its frames and channels together.

    ``layer_norm(clip, clip.shape)`` of every clip without its padding, with torch's default eps. SpeechBrain normalises
    what it has in a batch, padding included; here no clip depends on the others.
    """
    mean, spread = mean_and_std(layer).chunk(2, dim=1)
    centre = mean.mean(1, keepdim=True)
    variance = (spread.square() + (mean - centre).square()).mean(1, keepdim=True)
    scale = (variance + NORM_EPS).rsqrt()
    if layer.packed:
        centre, scale = (torch.repeat_interleave(part, layer.lengths, dim=0)[None] for part in (centre, scale))
    else:
        centre, scale = centre[:, None], scale[:, None]
    states = (layer.states.float() - centre) * scale
    return LayerStates(states.to(layer.states.dtype), layer.lengths, layer.packed)


def _close(split: Tensor, whole: Tensor) -> bool:
    scale = max(float(whole.abs().max()), 1.0)
    return bool(float((split - whole).abs().max()) <= SPLIT_TOLERANCE * scale)


def _find_layers(model: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    """The list of layers: the longest list of equal modules as deep as the configuration says."""
    wanted = str(getattr(model, "main_input_name", ""))
    if wanted not in INPUTS:
        raise SertuneError(f"encoder {name}: takes {wanted}, not audio; {FAMILIES}")
    config: Any = getattr(model, "config", None)
    depth = getattr(config, "num_hidden_layers", None) or getattr(config, "encoder_layers", None)
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and "layers" in path.split(".")[-1]
    ]
    found = [(path, module) for path, module in found if _attends(module[0])]
    if len(found) != 1:
        raise SertuneError(
            f"encoder {name}: expected one list of {depth} transformer layers, found {len(found)}; {FAMILIES}"
        )
    return found[0]


def _attends(layer: nn.Module) -> bool:
    return any("attn" in path or "attention" in path for path, _ in layer.named_modules())


def load_encoder(name: str, *, check: bool = True) -> Encoder:
    """An encoder by hub name, by folder (of transformers or SpeechBrain), or ``builtin``.

    Raises:
        SertuneError: no such folder or model, no speech encoder, weights missing or unexpected.
    """
    if name == "builtin" or name.startswith("builtin:"):
        from sertune.model.builtin import build_builtin

        model, features = build_builtin(name)
        return Encoder(model, features, name, check=check)
    local = Path(name).exists() or not hub_answers(name)
    theirs = find_speechbrain(name, local)
    if theirs is not None:
        return Encoder(*theirs.encoder(), name, check=check)
    model = _load_transformers(name, local)
    try:
        return Encoder(model, load_features(name, model, local), name, check=check)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # a model that is no speech encoder
        raise explain(name, error) from error


def _load_transformers(name: str, local: bool) -> nn.Module:
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise SertuneError(f"encoder {name}: the folder has no config.json; expected a transformers model folder")
    if folder.is_file():
        raise SertuneError(f"encoder {name}: is a file; expected the folder that holds it, a hub name or builtin")
    if not folder.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise SertuneError(f"encoder {name}: no such folder")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=local)
        model, info = AutoModel.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            use_safetensors=None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_weights` names them
            local_files_only=local,
        )
    except Exception as error:  # a damaged checkpoint makes transformers raise nearly anything
        raise explain(name, error) from error
    finally:
        logging.set_verbosity(verbosity)
    check_weights(name, model, info)
    encoder: nn.Module = model.get_encoder() if config.is_encoder_decoder else model
    return encoder.eval()
