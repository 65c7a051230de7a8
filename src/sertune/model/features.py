"""From samples to the input of an encoder's front, as the model was trained to expect it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sertune.data.audio import resample
from sertune.errors import SertuneError

SILENT_DB = 40.0


class Features:
    """One clip's samples as the model's keyword inputs, never padded.

    Args:
        extractor: a transformers feature extractor. Where it has ``wave_norm_eps``, samples are normalised as
            SpeechBrain does it, with a larger eps than the extractor's own, which changes quiet clips.
        assumed: a sentence for the report where the folder did not say how to prepare audio.

    Attributes:
        rate: of the samples that are given, in Hz; the model's, `model_rate`, unless it is set to another.
        wave_norm_eps: added to the variance of the samples; 0: the extractor normalises, if it does.
        silence: longest silence in seconds that is kept at either end; 0 keeps all.
        level: RMS level in dB of full scale that every clip is brought to; 0 leaves it as it is.
    """

    def __init__(self, extractor: Any, assumed: str = "") -> None:
        self.extractor = extractor
        self.model_rate = int(extractor.sampling_rate)
        self.rate = self.model_rate
        self.hop = int(getattr(extractor, "hop_length", 0))
        self.assumed = assumed
        self.wave_norm_eps = float(getattr(extractor, "wave_norm_eps", 0.0))
        self.silence = 0.0
        self.level = 0.0

    def __call__(self, audio: np.ndarray) -> dict[str, Tensor]:
        """Samples (N,) float32 -> ``{"input_values": (1, N)}`` or ``{"input_features": (1, ...)}``."""
        audio = resample(audio, self.rate, self.model_rate)
        options: dict[str, Any] = {"sampling_rate": self.model_rate, "return_tensors": "pt", "padding": False}
        if self.hop:  # Whisper's would be cut and padded to 30 s
            options |= {"truncation": False}
        if self.silence:
            audio = trimmed(audio, self.model_rate, self.silence)
        if self.level:
            audio = at_level(audio, self.level)
        # mel spectra are float32 whatever the precision of the model
        with torch.autocast("cpu", enabled=False):
            if self.wave_norm_eps:
                return {"input_values": whitened(audio, self.wave_norm_eps)[None]}
            made = self.extractor(audio, **options)
        key = "input_values" if "input_values" in made else "input_features"
        return {key: made[key].to(torch.float32)}


def trimmed(audio: np.ndarray, rate: int, longest: float) -> np.ndarray:
    """Samples (N,) with at most ``longest`` seconds of silence at either end.

    Silent is what is `SILENT_DB` below the loudest 10 ms. Under mean pooling silence around the speech shifts every
    vector, and corpora differ in how they are cut.
    """
    hop = rate // 100
    count = len(audio) // hop
    energy = np.square(audio[: count * hop], dtype=np.float64).reshape(count, hop).mean(1)
    if not count or not energy.any():
        return audio
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-SILENT_DB / 10))
    keep = round(longest * rate)
    last = len(audio) if loud[-1] == count - 1 else (int(loud[-1]) + 1) * hop + keep
    return audio[max(0, int(loud[0]) * hop - keep) : last]


def at_level(audio: np.ndarray, level: float) -> np.ndarray:
    """Samples (N,) with an RMS of ``level`` dB of full scale; silence stays silence."""
    rms = float(np.sqrt(np.square(audio, dtype=np.float64).mean())) if len(audio) else 0.0
    return audio if rms == 0 else (audio * (10 ** (level / 20) / rms)).astype(np.float32)


def whitened(audio: np.ndarray, eps: float) -> Tensor:
    """Samples (N,) with zero mean and unit variance, ``layer_norm`` over all of them, (N,) float32."""
    samples = torch.tensor(audio, dtype=torch.float32)
    return nn.functional.layer_norm(samples, samples.shape, eps=eps)


def load_features(name: str, model: nn.Module, local: bool = True) -> Features:
    """The feature extractor that belongs to an encoder.

    A folder without ``preprocessor_config.json`` gets the family's usual one, which the report then says.

    Args:
        name: folder, or name on the hub.
        model: its model.
        local: whether to look only in the folder or in what was downloaded before.

    Raises:
        SertuneError: the extractor can't be loaded.
    """
    from transformers import AutoFeatureExtractor

    folder = Path(name)
    if not folder.is_dir() or (folder / "preprocessor_config.json").is_file():
        try:
            options = {"trust_remote_code": False, "local_files_only": local}
            return Features(AutoFeatureExtractor.from_pretrained(name, **options))
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SertuneError(f"encoder {name}: cannot read preprocessor_config.json: {reason}") from None
    return _usual(name, model)


def _usual(name: str, model: nn.Module) -> Features:
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    config: Any = model.config
    said = f"encoder {name} has no preprocessor_config.json: assumed 16 kHz"
    if config.model_type == "whisper":
        return Features(WhisperFeatureExtractor(feature_size=config.num_mel_bins), f"{said}, log-mel as Whisper")
    if config.model_type == "wav2vec2-bert":
        bins = config.feature_projection_input_dim // 2
        extractor = SeamlessM4TFeatureExtractor(feature_size=bins, num_mel_bins=bins, stride=2)
        return Features(extractor, f"{said}, log-mel as w2v-BERT 2")
    return Features(Wav2Vec2FeatureExtractor(do_normalize=True), f"{said}, each clip to zero mean and unit variance")
