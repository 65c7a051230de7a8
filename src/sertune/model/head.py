"""The head: pooled states of some layers -> mix -> MLP -> outputs."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sertune.config import HeadConfig
from sertune.data.batch import LayerStates
from sertune.errors import SertuneError
from sertune.model.encoder import mean_and_std
from sertune.model.targets.joined import start_layer

ATTENTION_WIDTH = 64


def chosen_layers(config: HeadConfig, depth: int, cut: int) -> tuple[int, ...]:
    """The layers that the head reads, 0 (what enters the first layer) to ``depth`` (the model's output).

    By default those whose states the method changes, or with a frozen encoder the inner ones: the last layer often
    serves the pre-training task.

    Raises:
        SertuneError: a layer that the encoder does not have.
    """
    if config.mix == "last":
        return (depth,)
    if not config.layers:
        return tuple(range(cut + 1, depth + 1)) or tuple(range(1, depth)) or (depth,)
    for layer in config.layers:
        if not 0 <= layer <= depth:
            raise SertuneError(f"head.layers = {config.layers}: the encoder has layers 0 to {depth}")
    return tuple(dict.fromkeys(config.layers))


class Head(nn.Module):
    """Pooling, standardisation, layer mix and MLP.

    Every layer is pooled by itself; under mean pooling that equals pooling the mix. Pooled vectors are
    standardised by the statistics of the training part (`standardise`), which are saved with the model.

    With ``config.convolutions`` (arXiv 2306.05350) the frames themselves are standardised and mixed, pass pointwise
    convolutions with ReLU and dropout, and are pooled after that.

    Args:
        config: which layers, pooling, mix and widths.
        depth: layers of the encoder.
        cut: its first layer that trains.
        width: channels of its states.
        outputs: number of outputs of the solved linear models.
        last: makes the last layer for the width of its input; a linear one with those outputs if not given.

    Attributes:
        output_width: of what the last layer reads.
        readout: the frozen linear model on the states at the cut, whose outputs are blended with the head's own; None
            where no layer lies below the cut, nothing lies above it, or ``config.blend`` is 0.
        source_mean, source_spread: mean and standard deviation over the training clips of what `pool` gives the trained
            model, (layers, statistics); with convolutions (1, statistics). Adaptation to a new corpus needs them.
    """

    mean: Tensor
    spread: Tensor
    source_mean: Tensor
    source_spread: Tensor

    def __init__(
        self,
        config: HeadConfig,
        depth: int,
        cut: int,
        width: int,
        outputs: int,
        last: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.layers = chosen_layers(config, depth, cut)
        blends = 0 < cut < depth and config.blend > 0
        self.readout = Readout(cut, width, outputs) if blends else None
        self.blend = config.blend
        self.pooling = config.pooling
        self.scaling = config.standardise
        mixes_frames = bool(config.convolutions)
        self.statistics = width if config.pooling == "mean" or mixes_frames else 2 * width
        self.register_buffer("mean", torch.zeros(len(self.layers), self.statistics))
        self.register_buffer("spread", torch.ones(len(self.layers), self.statistics))
        self.weights = nn.Parameter(torch.zeros(len(self.layers))) if config.mix == "weighted" else None
        mixed = self.statistics * (1 if self.weights is not None else len(self.layers))
        self.convolutions = PointwiseConvolutions(mixed, config) if mixes_frames else None
        frame = config.convolutions[-1] if mixes_frames else width
        self.attention = AttentivePooling(frame) if config.pooling == "attentive" else None
        if mixes_frames:
            mixed = frame if config.pooling == "mean" else 2 * frame
        pooled = (1, mixed) if mixes_frames else (len(self.layers), self.statistics)
        self.register_buffer("source_mean", torch.zeros(pooled))
        self.register_buffer("source_spread", torch.ones(pooled))
        widths = [mixed, *config.hidden]
        blocks: list[nn.Module] = [nn.Dropout(config.dropout)]
        for before, after in pairwise(widths):
            blocks += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.blocks = nn.Sequential(*blocks)
        self.output_width = widths[-1]
        self.output = nn.Linear(widths[-1], outputs) if last is None else last(widths[-1])

    @property
    def linear(self) -> bool:
        """Whether a linear model can start the outputs, or the average annotator's where there are annotators."""
        return len(self.blocks) == 1 and self.convolutions is None and bool(getattr(self.output, "linear", True))

    @property
    def lowest_frames(self) -> int | None:
        """Lowest layer whose frames are needed; None if pooled statistics do for layers that do not train."""
        return min(self.layers) if self.attention is not None or self.convolutions is not None else None

    def pool(self, hidden: Sequence[LayerStates], start: int, pooled: Tensor | None) -> Tensor:
        """One vector per chosen layer: (B, layers, statistics); with convolutions one of their mix, (B, 1, statistics).

        Args:
            hidden: states from layer ``start`` on, as `Encoder.replay` returns them.
            start: layer of the first of them.
            pooled: (B, depth + 1, 2 D) statistics with pre-trained weights, read for layers up to ``start``.

        Raises:
            SertuneError: layers of different frame rates are to be mixed frame by frame.
        """
        if self.convolutions is not None:
            frames: LayerStates = self.convolutions(
                self._mixed_frames([hidden[layer - start] for layer in self.layers])
            )
            if self.pooling == "mean":
                return (frames.sums() / frames.lengths[:, None].clamp_min(1))[:, None]
            vector: Tensor = mean_and_std(frames) if self.attention is None else self.attention(frames)
            return vector[:, None]
        vectors = []
        for layer in self.layers:
            if self.attention is not None:
                vectors.append(self.attention(hidden[layer - start]))
            elif pooled is not None and layer <= start:
                vectors.append(pooled[:, layer, : self.statistics])
            else:
                vectors.append(mean_and_std(hidden[layer - start])[:, : self.statistics])
        return torch.stack(vectors, dim=1)

    def forward(self, vectors: Tensor, slots: Tensor | None = None) -> Tensor:
        """Pooled vectors (B, layers, statistics), as `pool` gives them -> outputs (B, K).

        Args:
            vectors: of the clips.
            slots: (B, R) annotators whose own outputs are wanted, where the last layer has them.
        """
        return self.read(self.hidden(vectors), slots)

    def read(self, hidden: Tensor, slots: Tensor | None = None) -> Tensor:
        """Outputs (B, K) of the last layer for what it reads, (B, width)."""
        outputs: Tensor = self.output(hidden) if isinstance(self.output, nn.Linear) else self.output(hidden, slots)
        return outputs

    def hidden(self, vectors: Tensor) -> Tensor:
        """What the last layer reads, (B, width)."""
        if self.convolutions is None:
            vectors = (vectors - self.mean) / self.spread
        if self.weights is None or self.convolutions is not None:
            mixed = vectors.flatten(1)
        else:
            mixed = (vectors * self.weights.softmax(0)[None, :, None]).sum(1)
        hidden: Tensor = self.blocks(mixed)
        return hidden

    def _mixed_frames(self, layers: list[LayerStates]) -> LayerStates:
        """Standardised frames of the chosen layers as one: their softmax mix, or side by side; float32."""
        first = layers[0]
        if any(layer.states.shape[1] != first.states.shape[1] for layer in layers):
            raise SertuneError(
                f"head.convolutions: layers {list(self.layers)} of this encoder have different frame rates and can't "
                "be mixed frame by frame; read the last one alone (--head.mix last) or leave out the convolutions"
            )
        if self.weights is None:
            parts = zip(layers, self.mean, self.spread, strict=True)
            mixed = torch.cat([(layer.states - mean) / spread for layer, mean, spread in parts], dim=-1)
        else:
            # each layer scaled, the means taken off at once: no standardised copy of every layer is kept
            scales = self.weights.softmax(0)[:, None] / self.spread
            mixed = -(scales * self.mean).sum(0)
            for layer, scale in zip(layers, scales, strict=True):
                mixed = mixed + layer.states * scale
        return LayerStates(mixed, first.lengths, first.packed)

    @torch.no_grad()
    def standardise(self, pooled: Tensor) -> Tensor:
        """Sets mean and spread from the training part's (N, depth + 1, 2 D); returns its mixed, standardised (N, F).

        With convolutions these are the mean and the standard deviation of the frames of all clips, every clip
        counting the same whatever its length: the variance is that within clips plus that of their means.
        """
        vectors = pooled[:, list(self.layers), : self.statistics]
        variance = vectors.var(0, correction=0)
        if self.convolutions is not None:
            variance = variance + pooled[:, list(self.layers), self.statistics :].square().mean(0)
        if self.scaling == "layer":
            variance = variance.mean(1, keepdim=True).expand_as(variance)
        elif self.scaling == "none":
            variance = torch.ones_like(variance)
        self.mean.copy_(vectors.mean(0))
        self.spread.copy_(variance.sqrt().clamp_min(1e-6))
        return self.standardised(pooled)

    @torch.no_grad()
    def measure_source(self, vectors: Tensor) -> None:
        """Takes `source_mean` and `source_spread` from the training part's vectors (N, layers, statistics)."""
        self.source_mean.copy_(vectors.mean(0))
        self.source_spread.copy_(vectors.std(0, correction=0).clamp_min(1e-6))

    @torch.no_grad()
    def standardised(self, pooled: Tensor) -> Tensor:
        """The input of a linear head for pooled statistics with pre-trained weights: (N, depth + 1, 2 D) -> (N, F)."""
        vectors = (pooled[:, list(self.layers), : self.statistics].to(self.mean) - self.mean) / self.spread
        return vectors.flatten(1) if self.weights is None else vectors.mean(1)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Sets a linear head: weight (K, F), bias (K,)."""
        start_layer(self.output, weight, bias)


class PointwiseConvolutions(nn.Module):
    """Convolutions over single frames (kernel 1), each with ReLU and dropout (arXiv 2306.05350).

    Args:
        width: channels of the frames.
        config: their widths and the dropout.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in pairwise([width, *config.convolutions]):
            blocks += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, frames: LayerStates) -> LayerStates:
        """Frames of ``width`` channels -> frames of the last width, padded or packed as they came."""
        return LayerStates(self.blocks(frames.states), frames.lengths, frames.packed)


class Readout(nn.Module):
    """A linear model on mean-pooled states that do not change in training. It is solved, not trained.

    Args:
        layer: that it reads.
        width: channels of the states.
        outputs: number of outputs.
    """

    mean: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, layer: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("weight", torch.zeros(outputs, width))
        self.register_buffer("bias", torch.zeros(outputs))

    def features(self, pooled: Tensor) -> Tensor:
        """(N, layers, 2 D) pooled statistics with pre-trained weights -> (N, D), not standardised."""
        return pooled[:, self.layer, : self.width]

    def forward(self, features: Tensor) -> Tensor:
        """What `features` gives, (N, D) -> outputs (N, K)."""
        return (features - self.mean) / self.spread @ self.weight.T + self.bias

    @torch.no_grad()
    def set(self, mean: Tensor, spread: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Takes the solution over standardised features."""
        for own, given in ((self.mean, mean), (self.spread, spread), (self.weight, weight), (self.bias, bias)):
            own.copy_(given)


class AttentivePooling(nn.Module):
    """Attentive statistics pooling (Okabe et al. 2018, eq. 4 to 6): weighted mean and standard deviation.

    Starts with equal weights, i.e. as plain mean and standard deviation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, ATTENTION_WIDTH)
        self.score = nn.Linear(ATTENTION_WIDTH, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, layer: LayerStates) -> Tensor:
        """(B, T, D) with lengths -> (B, 2 D), float32."""
        layer = layer.pad()
        states, outside = layer.states.float(), ~layer.inside()
        scores = self.score(torch.tanh(self.inner(states)))[:, :, 0].float()
        weights = scores.masked_fill(outside, float("-inf")).softmax(1)[:, :, None]
        mean = (weights * states).sum(1)
        variance = (weights * (states - mean[:, None]).square()).sum(1)
        return torch.cat([mean, (variance + 1e-12).sqrt()], dim=1)
