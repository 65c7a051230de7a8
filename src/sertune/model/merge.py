"""Folds LoRA's updates into the weights, and writes a trained encoder for use elsewhere."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sertune.config import MethodConfig
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder
from sertune.model.methods.lora import lora_modules

KEPT = {
    "adapter": "adapters are nonlinear",
    "prompt": "prompts are inputs of the layers",
}
"""Methods that no weights can take the place of, and why."""


@torch.no_grad()
def merge(model: EmotionModel) -> EmotionModel:
    """A model of the same outputs without updates: each updated weight W becomes W + scale B A.

    Its method is `partial` over all layers above the cut (`full` where that was part of the method), so that any
    sertune reads it. A model without LoRA is returned as it is. The encoder is taken over: use only what is returned.

    Raises:
        SertuneError: the method holds an adapter or a prompt.
    """
    spec, encoder = model.spec, model.encoder
    for part, reason in KEPT.items():
        if part in spec.method.parts:
            raise SertuneError(f"method {spec.method.name}: can't be merged, as {reason}, not updates of weights")
    if "lora" not in spec.method.parts:
        return model
    for module in lora_modules(encoder).values():
        module.base.weight.copy_(module.weight)
    full = "full" in spec.method.parts
    method = (
        MethodConfig("full", front=spec.method.front) if full else MethodConfig("partial", encoder.depth - encoder.cut)
    )
    head = replace(spec.head, layers=list(model.head.layers))
    merged = EmotionModel(encoder, ModelSpec(encoder.name, method, head, spec.target, spec.audio))
    merged.head = model.head
    merged.info = model.info
    return merged.train(model.training)


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Writes the encoder as it is now as a transformers folder, with its feature extractor.

    ``AutoModel`` and `load_encoder` read it. Of an encoder-decoder model (Whisper) the decoder is left out: its
    configuration then has none of its layers.

    Args:
        encoder: without modules that a method added.
        folder: to make.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: Any = encoder.model
    config = deepcopy(model.config)
    if config.is_encoder_decoder:
        config.decoder_layers = 0
    state = {encoder.peft_prefix + name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    config.save_pretrained(folder)
    encoder.features.extractor.save_pretrained(folder)
