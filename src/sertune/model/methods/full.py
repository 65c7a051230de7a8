"""All layers train; the front (convolutions, projections, positions) on request."""

from dataclasses import dataclass

from sertune.model.encoder import Encoder


@dataclass(frozen=True)
class Full:
    """Trains every layer, and the front too if ``front``.

    The front runs one clip at a time also when it trains, so that group norms and positional convolutions never
    see padding. It stays in eval mode; gradients flow.
    """

    front: bool = False

    def apply(self, encoder: Encoder) -> None:
        """Marks all layers, the tail and, on request, what lies below them; the cut is 0."""
        parameters = encoder.parameters_from(0)
        if self.front:
            parameters += [parameter for _, parameter in encoder.front_parameters()]
        encoder.set_trainable(parameters, 0, front=self.front)
