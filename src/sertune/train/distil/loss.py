"""How far a student is from its teacher, layer by layer.

DistilHuBERT (Chang et al. 2022, arXiv 2110.01900, eq. 1) predicts several layers of the teacher through linear heads
that are thrown away afterwards, by the L1 distance and the cosine of each frame. Three things are choices of ours: the
channels are standardised over the audio, as a few channels of a transformer's states are many times larger than all
others; the student's layers may each give a layer of the teacher; the means over time are compared, too, as they are
what emotion models pool.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sertune.data.batch import LayerStates
from sertune.model.encoder import Encoder, mean_and_std
from sertune.model.student import batched_front
from sertune.model.targets import DimensionTarget, Target
from sertune.train.distil.config import LossConfig
from sertune.train.distil.pairs import PairBatch

Moments = dict[int, tuple[Tensor, Tensor]]
RIDGE = 1e-3
"""Of the maps' start, as a share of the mean square of the student's channels."""


def matched(student: int, layers: Sequence[int], how: str) -> dict[int, int]:
    """Which layer of a student of depth ``student`` gives which of the teacher's ``layers``: teacher's -> student's.

    `layers` spreads them in order over the student's, the last to the last; `last` takes the last for all.
    """
    if how == "last":
        return dict.fromkeys(layers, student)
    count = len(layers)
    return {layer: max(1, round((place + 1) * student / count)) for place, layer in enumerate(sorted(layers))}


class Distiller(nn.Module):
    """A student with the linear maps to its teacher's states and outputs.

    Args:
        encoder: the student; all of it trains but its positions.
        moments: mean and spread of each channel, by layer of the teacher.
        loss: weights, and which layer gives which.
        target: of the emotion model; None where the teacher is an encoder.
        outputs: how many the emotion model has.

    Attributes:
        pairs: layer of the teacher -> layer of the student.
    """

    def __init__(
        self, encoder: Encoder, moments: Moments, loss: LossConfig, target: Target | None = None, outputs: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.weights = loss
        self.target = target
        self.pairs = matched(encoder.depth, list(moments), loss.match)
        self.maps = nn.ModuleDict(
            {str(layer): nn.Linear(encoder.width, len(mean)) for layer, (mean, _) in moments.items()}
        )
        for layer, (mean, spread) in moments.items():
            self.register_buffer(f"mean_{layer}", mean)
            self.register_buffer(f"spread_{layer}", spread)
        pooled = encoder.width * encoder.depth
        self.readout = nn.Sequential(nn.LayerNorm(pooled), nn.Linear(pooled, outputs)) if target is not None else None
        encoder.set_trainable(self.student_parameters(), 0, front=True)

    def student_parameters(self) -> list[nn.Parameter]:
        """What trains of the student: all but its positions, which no weight file needs."""
        return [value for name, value in self.encoder.model.named_parameters() if "embed_positions" not in name]

    def trainable(self) -> list[nn.Parameter]:
        """All parameters that train."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def hidden(self, batch: PairBatch) -> list[LayerStates]:
        """States of all the student's layers, as `Encoder.replay` gives them."""
        entering = batched_front(self.encoder, batch.mels, batch.lengths)
        return self.encoder.replay(self.encoder.lay_out(entering), 0)

    def predicted(self, batch: PairBatch) -> tuple[list[LayerStates], dict[int, Tensor], Tensor | None]:
        """The student's states, what they give of each of the teacher's layers, (frames, D), and its outputs."""
        hidden = self.hidden(batch)
        given = {layer: self.maps[str(layer)](_frames(hidden[own])) for layer, own in self.pairs.items()}
        if self.readout is None:
            return hidden, given, None
        pooled = torch.cat([mean_and_std(layer).chunk(2, dim=1)[0] for layer in hidden[1:]], dim=1)
        return hidden, given, self.readout(pooled)

    def distances(
        self, lengths: Tensor, given: dict[int, Tensor], outputs: Tensor | None, batch: PairBatch
    ) -> dict[str, Tensor]:
        """The loss of every layer of the teacher, and of its outputs; `total` adds them up. Float32.

        Args:
            lengths: (B,) the student's frames of each clip.
            given: what `predicted` gave, in float32.
            outputs: likewise.
            batch: with the teacher's.
        """
        found = {}
        for layer, frames in given.items():
            true = self._standardised(batch.states[layer], layer)
            found[f"layer {layer}"] = self._distance(frames.float(), true.float(), lengths)
        if outputs is not None and batch.outputs is not None and self.target is not None:
            found["outputs"] = output_distance(self.target, outputs.float(), batch.outputs)
        return found

    def total(self, distances: dict[str, Tensor]) -> Tensor:
        """The mean over layers, and the weighted distance of the outputs."""
        layers = [value for name, value in distances.items() if name != "outputs"]
        total = torch.stack(layers).mean()
        return total + self.weights.outputs * distances["outputs"] if "outputs" in distances else total

    def _distance(self, given: Tensor, true: Tensor, lengths: Tensor) -> Tensor:
        weights = self.weights
        loss = weights.l1 * (given - true).abs().mean()
        if weights.cosine:
            cosine = nn.functional.cosine_similarity(given, true, dim=-1)
            loss = loss - weights.cosine * nn.functional.logsigmoid(cosine).mean()
        if weights.mean:
            means = [LayerStates(frames[None], lengths, packed=True).sums() for frames in (given, true)]
            loss = loss + weights.mean * ((means[0] - means[1]) / lengths[:, None]).abs().mean()
        return loss

    @torch.no_grad()
    def solve_maps(self, batches: Iterable[PairBatch]) -> None:
        """Starts the maps as ridge regressions of the teacher's states on the student's as they are now.

        A student that starts from its teacher's weights is near it already; from random maps the first steps would
        take it away again (linear probing, then fine-tuning).

        Args:
            batches: some clips, on the device of the student.
        """
        self.eval()
        products: dict[int, Tensor] = {}
        targets: dict[int, Tensor] = {}
        for batch in batches:
            hidden = self.hidden(batch)
            known = {}
            for layer, own in self.pairs.items():
                if own not in known:
                    frames = _frames(hidden[own]).double()
                    known[own] = nn.functional.pad(frames, (0, 1), value=1.0)
                    products[own] = products.get(own, 0.0) + known[own].T @ known[own]
                true = self._standardised(batch.states[layer], layer).double()
                targets[layer] = targets.get(layer, 0.0) + known[own].T @ true
        for product in products.values():
            product.diagonal().add_(RIDGE * product.diagonal().mean())
        for layer, target in targets.items():
            product = products[self.pairs[layer]]
            solved = torch.linalg.solve(product, target)
            linear = self.maps[str(layer)]
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(solved[:-1].T)
            linear.bias.copy_(solved[-1])

    def _standardised(self, states: Tensor, layer: int) -> Tensor:
        return (states - self.get_buffer(f"mean_{layer}")) / self.get_buffer(f"spread_{layer}")

    # -- saving, as `sertune.train.checkpoint` wants it --------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """Everything that trains, and the moments: name -> tensor."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name: tensor.detach() for name, tensor in own.items() if "embed_positions" not in name}

    @torch.no_grad()
    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Sets what `trained_state` gave."""
        for name, tensor in self.trained_state().items():
            tensor.copy_(tensors[name])


def _frames(layer: LayerStates) -> Tensor:
    """(frames of all clips, D), without padding."""
    return layer.pack().states[0]


def output_distance(target: Target, given: Tensor, true: Tensor) -> Tensor:
    """KL divergence of the teacher's distribution (B, K) from the student's; of dimensions the L1 distance."""
    if isinstance(target, DimensionTarget):
        return (given - true).abs().mean()
    return nn.functional.kl_div(given.log_softmax(1), true.log_softmax(1), log_target=True, reduction="batchmean")
