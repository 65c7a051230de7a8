"""Embedding prompts in the last layers (arXiv 2306.05350: one, three or five in every layer)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from sertune.errors import SertuneError
from sertune.model.encoder import Encoder
from sertune.model.prompt import PROMPT, Prompt


@dataclass(frozen=True)
class PromptTuning:
    """Trains ``length`` vectors before the input of each of the last ``layers`` layers."""

    layers: int | Literal["auto", "all"]
    length: int

    def apply(self, encoder: Encoder) -> None:
        """Adds the prompts.

        Raises:
            SertuneError: more layers than the encoder has, or layers with convolutions over time.
        """
        cut = encoder.first_of_last(self.layers)
        if any(isinstance(module, nn.Conv1d) for module in encoder.layers.modules()):
            raise SertuneError(
                f"method prompt: the layers of encoder {encoder.name} hold convolutions, which would mix the prompts "
                "into the frames; choose lora, adapter or bias"
            )
        scale = _usual_size(encoder)
        added = []
        for layer in encoder.layers[cut:]:
            prompt = Prompt(self.length, encoder.width, scale).to(encoder.device)
            layer.add_module(PROMPT, prompt)
            encoder.on_clear(partial(delattr, layer, PROMPT))
            added += list(prompt.parameters())
        encoder.set_trainable(added, cut)


def _usual_size(encoder: Encoder) -> float:
    """A size for new vectors that the layers' norms can live with: that of other embeddings, 1 / sqrt(width)."""
    return float(torch.tensor(encoder.width).rsqrt())
