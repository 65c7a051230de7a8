"""Whether a checkpoint really filled the encoder, and errors of loading in one line."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from sertune.errors import SertuneError

UNUSED = ("masked_spec_embed",)
"""Parameters that only pre-training uses; public checkpoints lack them."""
HUB_SECONDS = 5.0
"""How long the hub may take to answer."""


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
        ("misses encoder weights", missing),
        ("has unexpected encoder weights", unexpected),
        ("has encoder weights of another shape than config.json says:", mismatched),
    ):
        if keys:
            raise SertuneError(f"encoder {name}: the checkpoint {what} {_some(keys)}; the model would be partly random")


def check_all(where: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor]) -> None:
    """Raises `SertuneError` unless weights are exactly those that a model has: none missing, none left over.

    Args:
        where: they come from, for the message.
        expected: name -> shape.
        found: name -> weight.
    """
    if missing := [name for name in expected if name not in found]:
        raise SertuneError(f"{where}: misses the weights {_some(missing)}; the model would be partly random")
    if strange := [name for name in found if name not in expected]:
        raise SertuneError(f"{where}: has unexpected weights {_some(strange)}; it belongs to another model")
    for name, shape in expected.items():
        if tuple(found[name].shape) != tuple(shape):
            raise SertuneError(f"{where}: {name} has shape {tuple(found[name].shape)}, expected {tuple(shape)}")


def _some(keys: Sequence[str]) -> str:
    return ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def read_weights(file: Path, where: str) -> dict[str, Tensor]:
    """The weights in a pickled checkpoint, on the CPU. No code in it is run.

    Args:
        file: as `torch.save` writes it.
        where: its name in messages.

    Raises:
        SertuneError: it is damaged, or holds anything but weights by name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that torch did not write
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip or torch, whatever the damage hits
        more = re.search(r"GLOBAL ([\w.]+)", str(error))
        if more is not None:
            raise SertuneError(
                f"{where}: holds more than weights ({more[1]}); sertune reads weights alone and runs no code in files"
            ) from None
        kind = type(error).__name__
        raise SertuneError(f"{where}: damaged, cut off or no checkpoint ({kind}); copy it again") from None
    if not isinstance(found, dict) or not found:
        raise SertuneError(f"{where}: expected weights by name, found {type(found).__name__ if found else 'nothing'}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise SertuneError(f"{where}: expected weights by name, found {type(value).__name__} under {name!r}")
    return found


def explain(name: str, error: Exception) -> SertuneError:
    """transformers' errors of loading, in one line that says what to do."""
    text = " ".join(str(error).split())
    lower = text.lower()
    weights = ("error while deserializing", "pickle", "weights only load failed", "pytorchstreamreader", "zip archive")
    if "no file named" in lower:
        return SertuneError(f"encoder {name}: has no weights; expected model.safetensors beside config.json")
    if any(words in lower for words in weights) or isinstance(error, EOFError):
        return SertuneError(
            f"encoder {name}: its weights are damaged or cut off ({_short(text.partition('. ')[0])}); copy them again"
        )
    if "custom code" in lower or "trust_remote_code" in lower:
        return SertuneError(f"encoder {name}: needs program code of its own, which sertune does not run")
    if "connect" in lower or "offline" in lower or "couldn't reach" in lower or "resolve" in lower:
        return SertuneError(
            f"encoder {name}: no such folder, not downloaded before, and the model hub can't be reached; "
            "give a folder with config.json and model.safetensors, or --encoder builtin"
        )
    if any(words in lower for words in ("not a local folder", "not a valid model", "repository not found", "repo id")):
        return SertuneError(f"unknown encoder {name!r}: neither a folder nor a model on the hub; or --encoder builtin")
    return SertuneError(f"encoder {name}: can't be loaded: {_short(text)}")


def _short(text: str) -> str:
    """The beginning of a long message, up to the end of a word."""
    return shorten(text, 200, placeholder=" ...")


def hub_answers(name: str) -> bool:
    """Whether the model hub answers for a model; asked once, as huggingface_hub would ask for half a minute per file.

    False in its offline mode, and where there is no network: then only what was downloaded before can be loaded.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.is_offline_mode():
        return False
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_SECONDS)
    except Exception as error:  # of the HTTP library, which has changed before
        status = getattr(getattr(error, "response", None), "status_code", 500)
        return bool(status < 500)  # it answers that there is no such model, which transformers then says
    return True


def downloaded(name: str, file: str, local: bool, revision: str | None = None) -> Path | None:
    """A file of a model on the hub, downloaded now or before.

    Args:
        name: of the model.
        file: in it.
        local: whether to look only in what was downloaded before.
        revision: a commit; the newest if not given.

    Returns:
        Where it is; None where the model has no such file, or there is no such model, or, with ``local``, it was not
        downloaded.

    Raises:
        SertuneError: the download failed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=local))
    except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError):
        return None
    except Exception as error:  # of the HTTP library, or a full disk
        raise explain(name, error) from error


def _decoder(key: str) -> bool:
    return key.startswith(("decoder.", "model.decoder."))


def _inside(key: str, parts: set[str]) -> bool:
    """Whether a key of the checkpoint lies in a module of the encoder (with or without a task model's prefix)."""
    pieces = key.split(".")
    return any(".".join(pieces[start:stop]) in parts for start in (0, 1) for stop in range(start + 1, len(pieces)))
