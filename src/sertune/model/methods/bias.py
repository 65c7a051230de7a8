"""Biases alone train (BitFit; Ben Zaken et al. 2022, arXiv 2106.10199)."""

from dataclasses import dataclass
from typing import Literal

from sertune.errors import SertuneError
from sertune.model.encoder import Encoder


@dataclass(frozen=True)
class Bias:
    """Trains every bias vector of the last ``layers`` layers and of what the model applies after them."""

    layers: int | Literal["auto", "all"]

    def apply(self, encoder: Encoder) -> None:
        """Marks the biases of linear maps and norms; the cut is the first of the layers.

        Raises:
            SertuneError: no module has a bias.
        """
        cut = encoder.first_of_last(self.layers)
        named = [pair for module in [*encoder.layers[cut:], *encoder.tail] for pair in module.named_parameters()]
        biases = [parameter for name, parameter in named if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise SertuneError(
                f"method bias: no module matched, the last layers of encoder {encoder.name} have no bias"
            )
        encoder.set_trainable(biases, cut)
