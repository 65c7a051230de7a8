"""Folders in the layout of SpeechBrain's emotion-recognition-wav2vec2-IEMOCAP, with random weights.

The layout is that of the published model: the same files, the YAML with its tags and comments, keys as SpeechBrain
names them.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HYPERPARAMS = """\
# ############################################################################
# Model: WAV2VEC base for Emotion Recognition
# ############################################################################


# Hparams NEEDED
HPARAMS_NEEDED: ["encoder_dim", "out_n_neurons", "label_encoder", "softmax"]
# Modules Needed
MODULES_NEEDED: ["wav2vec2", "avg_pool", "output_mlp"]

# Feature parameters
wav2vec2_hub: facebook/wav2vec2-base

# Pretrain folder (HuggingFace)
pretrained_path: speechbrain/emotion-recognition-wav2vec2-IEMOCAP

# parameters
encoder_dim: {width}
out_n_neurons: {outputs}

wav2vec2: !new:{wrapper}
    source: !ref <wav2vec2_hub>
    output_norm: {output_norm}
    freeze: True
    save_path: wav2vec2_checkpoints

avg_pool: !new:speechbrain.nnet.pooling.StatisticsPooling
    return_std: False

output_mlp: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <encoder_dim>
    n_neurons: !ref <out_n_neurons>
    bias: {bias}

model: !new:torch.nn.ModuleList
    - [!ref <output_mlp>]

modules:
    wav2vec2: !ref <wav2vec2>
    output_mlp: !ref <output_mlp>
    avg_pool: !ref <avg_pool>

softmax: !new:speechbrain.nnet.activations.Softmax

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        wav2vec2: !ref <wav2vec2>
        model: !ref <model>
        label_encoder: !ref <label_encoder>
    paths:
        wav2vec2: !ref <pretrained_path>/wav2vec2.ckpt
        model: !ref <pretrained_path>/model.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""
WRAPPER = "speechbrain.lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2"
"""As SpeechBrain 1.0 names it; `OLD_WRAPPER` is its name before."""
OLD_WRAPPER = "speechbrain.lobes.models.huggingface_wav2vec.HuggingFaceWav2Vec2"
LABELS = ("neu", "ang", "hap", "sad")
CANONICAL = ("neutral", "anger", "happiness", "sadness")
INTERFACE = 'raise RuntimeError("code of the model folder was run")\n'
"""Stands for the folder's own Python."""


def base_like(layers: int = 1, *, stable: bool = False) -> nn.Module:
    """A random model of wav2vec2-base's width, heads and front, or with ``stable`` of the large ones' norms; slim."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    norms: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    config = Wav2Vec2Config(
        num_hidden_layers=layers,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8,
        **(norms if stable else {}),
    )
    return uneven(Wav2Vec2Model(config))


def uneven(model: nn.Module) -> nn.Module:
    """Random norms and biases, so that nothing is the identity by chance."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def encoder_keys(model: nn.Module, *, old_weight_norm: bool = False, masked: bool = True) -> dict[str, Tensor]:
    """The weights as SpeechBrain names them, with the names that weight norm had before torch 2.1 if asked for."""
    old = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "masked_spec_embed" and not masked:
            continue
        for new_name, old_name in old.items() if old_weight_norm else ():
            name = name.replace(new_name, old_name)
        found[f"model.{name}"] = tensor.clone()
    return found


def write_speechbrain(
    folder: Path,
    model: nn.Module,
    *,
    output_norm: bool = True,
    bias: bool = False,
    labels: tuple[str, ...] = LABELS,
    wrapper: str = WRAPPER,
    old_weight_norm: bool = False,
    masked: bool = True,
    config: bool = False,
) -> Path:
    """Writes a wav2vec 2.0 model and a random head.

    Args:
        folder: to make.
        model: of transformers.
        output_norm, bias, labels, wrapper: as in ``hyperparams.yaml``.
        old_weight_norm, masked: as of `encoder_keys`.
        config: whether to put the model's own ``config.json`` beside; else it is SpeechBrain's, which tells nothing.
    """
    settings: Any = model.config
    folder.mkdir(parents=True, exist_ok=True)
    width, outputs = settings.hidden_size, len(labels)
    options = {"output_norm": output_norm, "bias": bias, "wrapper": wrapper}
    (folder / "hyperparams.yaml").write_text(HYPERPARAMS.format(width=width, outputs=outputs, **options))
    torch.save(encoder_keys(model, old_weight_norm=old_weight_norm, masked=masked), folder / "wav2vec2.ckpt")
    head = {"0.w.weight": torch.randn(outputs, width)}
    torch.save({**head, **({"0.w.bias": torch.randn(outputs)} if bias else {})}, folder / "model.ckpt")
    lines = [f"{label!r} => {place}\n" for place, label in enumerate(labels)]
    (folder / "label_encoder.txt").write_text("".join(lines) + "================\n'starting_index' => 0\n")
    (folder / "custom_interface.py").write_text(INTERFACE)
    if config:
        settings.save_pretrained(folder)
    else:
        (folder / "config.json").write_text('{\n  "speechbrain_interface": "EncoderWav2vecClassifier"\n}\n')
    return folder
