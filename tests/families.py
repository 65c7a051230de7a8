"""Tiny random encoders of every supported family, saved as transformers folders, or as SpeechBrain saves its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    SeamlessM4TFeatureExtractor,
    SEWConfig,
    SEWModel,
    UniSpeechSatConfig,
    UniSpeechSatModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from speechbrain_folder import uneven, write_speechbrain

LAYERS, WIDTH = 3, 32

COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 8, 8),
    "conv_kernel": (10, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
}
STABLE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


def _raw(kind: Any, config: Any, **options: Any) -> Callable[[], tuple[nn.Module, Any]]:
    def build() -> tuple[nn.Module, Any]:
        model = kind(config(**{**COMMON, **CONVOLUTIONS, **options}))
        return model, Wav2Vec2FeatureExtractor(do_normalize=True)

    return build


def _w2v_bert(positions: str) -> Callable[[], tuple[nn.Module, Any]]:
    def build() -> tuple[nn.Module, Any]:
        config = Wav2Vec2BertConfig(
            **COMMON, feature_projection_input_dim=160, conv_depthwise_kernel_size=5, position_embeddings_type=positions
        )
        return Wav2Vec2BertModel(config), SeamlessM4TFeatureExtractor()

    return build


def _whisper() -> tuple[nn.Module, Any]:
    config = WhisperConfig(
        d_model=WIDTH,
        encoder_layers=LAYERS,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=0,
        num_mel_bins=80,
        vocab_size=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
        max_target_positions=4,
    )
    return WhisperModel(config), WhisperFeatureExtractor(feature_size=80)


FAMILIES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "wav2vec2-group": _raw(Wav2Vec2Model, Wav2Vec2Config),
    "wav2vec2-layer": _raw(Wav2Vec2Model, Wav2Vec2Config, **STABLE),
    "hubert": _raw(HubertModel, HubertConfig),
    "hubert-layer": _raw(HubertModel, HubertConfig, **STABLE),
    "wavlm": _raw(WavLMModel, WavLMConfig),
    "wavlm-layer": _raw(WavLMModel, WavLMConfig, **STABLE),
    "data2vec": _raw(Data2VecAudioModel, Data2VecAudioConfig, num_conv_pos_embeddings=2, conv_pos_kernel_size=5),
    "unispeech-sat": _raw(UniSpeechSatModel, UniSpeechSatConfig),
    "sew": _raw(SEWModel, SEWConfig, squeeze_factor=2),
    "w2v-bert": _w2v_bert("relative_key"),
    "w2v-bert-relative": _w2v_bert("relative"),
    "whisper": _whisper,
    "speechbrain": _raw(Wav2Vec2Model, Wav2Vec2Config),
}


def save_family(family: str, folder: Path, seed: int = 0) -> str:
    """Writes a tiny random model with its feature extractor; returns the folder as text."""
    torch.manual_seed(seed)
    model: Any
    model, extractor = FAMILIES[family]()
    uneven(model)
    if family == "speechbrain":
        return str(write_speechbrain(folder, model, config=True))
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)
