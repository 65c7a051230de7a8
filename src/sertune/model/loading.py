"""Whether a checkpoint really filled the encoder, and errors of loading in one line."""

from typing import Any

from torch import nn

from sertune.errors import SertuneError

UNUSED = ("masked_spec_embed",)
"""Parameters that only pre-training uses; public checkpoints lack them."""


def check_weights(name: str, model: nn.Module, info: dict[str, Any]) -> None:
    """Raises `SertuneError` when encoder weights are missing, unexpected or of another shape.

    Heads of pre-training or of a task (``lm_head``, ``quantizer``, a decoder) are not the encoder's and may be
    left over.

    Args:
        name: the encoder, for the message.
        model: as loaded.
        info: transformers' ``output_loading_info``.
    """
    mismatched = [str(entry[0]) for entry in info.get("mismatched_keys", [])]
    missing = [key for key in info.get("missing_keys", []) if not key.endswith(UNUSED) and not _decoder(key)]
    parts = {path for path, _ in model.named_modules() if path}
    unexpected = [key for key in info.get("unexpected_keys", []) if _inside(key, parts) and not _decoder(key)]
    for what, keys in (
        ("misses", missing),
        ("has unexpected", unexpected),
        ("has weights of another shape:", mismatched),
    ):
        if keys:
            shown = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise SertuneError(
                f"encoder {name}: the checkpoint {what} encoder weights {shown}; the model would be partly random"
            )


def explain(name: str, error: Exception) -> SertuneError:
    """transformers' errors of loading, in one line that says what to do."""
    text = " ".join(str(error).split())
    lower = text.lower()
    if "safetensors" in lower and ("error" in lower or "header" in lower or "incomplete" in lower):
        return SertuneError(f"encoder {name}: model.safetensors is damaged ({text[:120]}); copy it again")
    if "connect" in lower or "offline" in lower or "couldn't reach" in lower or "resolve" in lower:
        return SertuneError(
            f"encoder {name}: no such folder, and the model hub can't be reached to download it; "
            "give a folder with config.json and model.safetensors, or --encoder builtin"
        )
    if "not a local folder" in lower or "not a valid model identifier" in lower or "repository not found" in lower:
        return SertuneError(f"unknown encoder {name!r}: neither a folder nor a model on the hub; or --encoder builtin")
    return SertuneError(f"encoder {name}: cannot be loaded: {text[:240]}")


def _decoder(key: str) -> bool:
    return key.startswith(("decoder.", "model.decoder."))


def _inside(key: str, parts: set[str]) -> bool:
    """Whether a key of the checkpoint lies in a module of the encoder (with or without a task model's prefix)."""
    pieces = key.split(".")
    return any(".".join(pieces[start:stop]) in parts for start in (0, 1) for stop in range(start + 1, len(pieces)))
