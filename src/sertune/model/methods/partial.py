"""The last layers train (arXiv 2503.03756: the last three, with cached states below them)."""

from dataclasses import dataclass
from typing import Literal

from sertune.model.encoder import Encoder


@dataclass(frozen=True)
class Partial:
    """Trains the last ``layers`` layers and what the model applies after them."""

    layers: int | Literal["auto", "all"]

    def apply(self, encoder: Encoder) -> None:
        """Marks the last layers and the tail; the cut is the first of them.

        Raises:
            SertuneError: more layers than the encoder has.
        """
        cut = encoder.first_of_last(self.layers)
        encoder.set_trainable(encoder.parameters_from(cut), cut)
