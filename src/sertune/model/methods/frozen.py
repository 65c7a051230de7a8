"""Nothing of the encoder trains: the head alone learns, from pooled states."""

from dataclasses import dataclass

from sertune.model.encoder import Encoder


@dataclass(frozen=True)
class Frozen:
    """The encoder as it was pre-trained."""

    def apply(self, encoder: Encoder) -> None:
        """Freezes all; the cut is the depth."""
        encoder.set_trainable([], encoder.depth)
