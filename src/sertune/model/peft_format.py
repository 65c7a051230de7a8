"""LoRA weights in the adapter format of the PEFT library, which itself is not needed.

A folder with ``adapter_config.json`` and ``adapter_model.safetensors``. ``peft.PeftModel.from_pretrained`` loads it
onto the base model that transformers' ``AutoModel`` gives. One thing PEFT can't do: on WavLM its updates of the
attention have no effect, as that attention reads raw weights and never calls the wrapped maps. Merge there first.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sertune.config import LoraConfig
from sertune.errors import SertuneError
from sertune.files import new_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
VARIANTS = ("use_dora", "use_qalora", "lora_bias", "alpha_pattern", "layer_replication", "target_parameters")
"""Settings of PEFT that change what an update computes; `LoraLinear` has none of them."""
CHANGES_BASE = ("pissa", "olora", "loftq", "corda")
"""Initialisations after which the base weights are no longer those of the base model."""

Pairs = Mapping[str, tuple[Tensor, Tensor]]
Shapes = Mapping[str, tuple[torch.Size, torch.Size]]


def write_adapter(folder: Path, options: LoraConfig, weights: Pairs, base: str, prefix: str) -> None:
    """Writes an adapter, complete or not at all; one that was there is replaced.

    Args:
        folder: to write.
        options: rank, alpha, dropout, rsLoRA.
        weights: A (rank, in) and B (out, rank) by the path of the linear map in the encoder.
        base: the encoder as the user named it.
        prefix: of these paths in the model that ``AutoModel`` gives for the base.
    """
    from safetensors.torch import save_file

    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": options.rank,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "use_rslora": options.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": [prefix + path for path in weights],
    }
    tensors = {}
    for path, pair in weights.items():
        for ending, tensor in zip((A, B), pair, strict=True):
            tensors[PREFIX + prefix + path + ending] = tensor.detach().cpu().contiguous().clone()
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    with new_folder(folder) as work:
        save_file(tensors, work / WEIGHTS, metadata={"format": "pt"})
        (work / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def read_adapter(folder: Path, options: LoraConfig, shapes: Shapes) -> Pairs:
    """The updates of an adapter, made by sertune or by PEFT on the base model or on a task's model around it.

    What it updates outside the encoder (a decoder, a head) is left over.

    Args:
        folder: of the adapter.
        options: rank, alpha and rsLoRA that it must have.
        shapes: of A and B, by the path of each linear map in the encoder that is updated.

    Raises:
        SertuneError: it is missing or damaged, of another kind, or has another rank, scale, other modules or shapes.
    """
    config = _read_config(folder)
    _check_config(folder, config, options)
    tensors = _read_tensors(folder)
    updates = {_path(name): tensor for name, tensor in tensors.items() if name.endswith((A, B))}
    found: dict[str, Tensor] = {}
    for name, tensor in updates.items():
        path, ending = name[: -len(A)], name[-len(A) :]
        if _in_decoder(path):
            continue
        own = next((ours for ours in shapes if f".{path}".endswith(f".{ours}")), None)
        if own is None:
            raise SertuneError(
                f"{folder}: updates {path}, which method.lora does not with these settings; "
                "set method.lora.targets and method.layers to what the adapter was made with"
            )
        expected = shapes[own][0 if ending == A else 1]
        if tensor.shape != expected:
            raise SertuneError(
                f"{folder}: {path}{ending} has shape {tuple(tensor.shape)}, expected {tuple(expected)}; "
                "it was made for another encoder, or its ranks differ"
            )
        found[own + ending] = tensor
    missing = [path for path in shapes if path + A not in found or path + B not in found]
    if missing:
        raise SertuneError(
            f"{folder}: has no update of {missing[0]}, which method.lora asks for; "
            "set method.lora.targets and method.layers to what the adapter was made with"
        )
    return {path: (found[path + A], found[path + B]) for path in shapes}


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        lacks = CONFIG if not (folder / CONFIG).is_file() else WEIGHTS
        raise SertuneError(f"{folder}: no PEFT adapter there, it has no {lacks}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SertuneError(f"{folder / CONFIG}: damaged ({error})") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise SertuneError(f"{folder / CONFIG}: expected an adapter of type LORA, found {kind}")
    return config


def _check_config(folder: Path, config: dict[str, Any], options: LoraConfig) -> None:
    pairs = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora"}
    for theirs, ours in pairs.items():
        wanted, value = getattr(options, ours), config.get(theirs, False)
        if value != wanted:
            raise SertuneError(f"{folder}: {theirs} is {value}, but method.lora.{ours} = {wanted}; set it to {value}")
    for key in VARIANTS:
        if config.get(key):
            raise SertuneError(f"{folder}: made with {key}, which sertune does not have; merge it into its base first")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        raise SertuneError(f"{folder}: made with init_lora_weights = {start}, which changes the base; merge it first")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise SertuneError(f"{folder / WEIGHTS}: damaged ({' '.join(str(error).split())})") from None
    return tensors


def _path(name: str) -> str:
    return name.removeprefix(PREFIX)


def _in_decoder(path: str) -> bool:
    return "decoder" in path.split(".")
