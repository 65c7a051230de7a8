"""The last layers train (arXiv 2503.03756: the last three, with cached states below them)."""

from dataclasses import dataclass

from sertune.errors import SertuneError
from sertune.model.encoder import Encoder


@dataclass(frozen=True)
class Partial:
    """Trains the last ``layers`` layers and what the model applies after them."""

    layers: int

    def apply(self, encoder: Encoder) -> None:
        """Marks the last layers and the tail; the cut is the first of them.

        Raises:
            SertuneError: more layers than the encoder has.
        """
        if not 1 <= self.layers <= encoder.depth:
            raise SertuneError(
                f"method.layers = {self.layers}: encoder {encoder.name} has {encoder.depth} layers; "
                f"choose 1 to {encoder.depth}"
            )
        cut = encoder.depth - self.layers
        encoder.set_trainable(encoder.parameters_from(cut), cut)
