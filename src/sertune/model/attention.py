"""Attention within each clip of a packed sequence, as an attention function of transformers.

Where a family calls its attention through transformers' interface, all clips of a batch run through the layers as
one sequence without padding, and only attention has to know where each clip begins and ends. `attend` is that
function; it reads the lengths from the `Packing` that the layers pass on in place of a mask. It serves padded batches
with an ordinary mask too.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sertune.model.dropout import dropout

NAME = "sertune"
Kernel = Literal["plain", "sdpa", "flash"]


@dataclass(frozen=True)
class Packing:
    """Where the clips of a packed sequence are.

    Attributes:
        lengths: frames of each clip.
        kernel: `plain`: matrix products clip by clip. `sdpa`: torch's fused attention; clip by clip on a CPU, padded
            on a GPU. `flash`: torch's attention over sequences of several lengths, on a GPU in half precision,
            without dropout of the attention weights.
        bias: (P,) added to the scores of each clip's first P keys; None: nothing.
    """

    lengths: list[int]
    kernel: Kernel = "sdpa"
    bias: Tensor | None = None


def register() -> None:
    """Makes `attend` known to transformers under `NAME`."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: "Packing | Tensor | None",
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface.

    Args:
        module: the attention module.
        query: (B, heads, T, d); B is 1 and T the frames of all clips where they are packed.
        key: alike.
        value: alike.
        attention_mask: a `Packing`, a mask (B, 1, T, T) boolean or additive, or None.
        scaling: of the scores; None: 1 / sqrt(d).
        dropout: of the attention weights; 0 outside training.

    Returns:
        (B, T, heads, d), and None in place of the weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not isinstance(attention_mask, Packing):
        made = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scale
        )
        return made.transpose(1, 2).contiguous(), None
    packing = attention_mask
    if packing.kernel == "flash" and packing.bias is None:
        return _flash(query, key, value, packing.lengths, scale), None
    if query.is_cuda:
        return _padded(query, key, value, packing, scale, dropout), None
    one = _plain if packing.kernel == "plain" else _fused
    if len(set(packing.lengths)) == 1:  # as where a corpus cut all its clips alike: one product for all
        q, k, v = (_side_by_side(tensor, len(packing.lengths)) for tensor in (query, key, value))
        return one(q, k, v, packing.bias, scale, dropout).flatten(0, 1)[None], None
    clips = zip(*(tensor.split(packing.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([one(q, k, v, packing.bias, scale, dropout) for q, k, v in clips], dim=1), None


def _side_by_side(tensor: Tensor, clips: int) -> Tensor:
    """(1, heads, B T, d) of clips of equal length -> (B, heads, T, d)."""
    side: Tensor = tensor[0].unflatten(1, (clips, -1))
    return side.transpose(0, 1)


def _plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, rate: float) -> Tensor:
    """Clips of equal length (B, heads, T, d) by matrix products -> (B, T, heads, d)."""
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    if bias is not None:
        scores = scores + _columns(bias, scores.shape[-1]).to(scores.dtype)
    weights = dropout(scores.softmax(-1), rate)
    return torch.matmul(weights, value).transpose(1, 2)


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, rate: float) -> Tensor:
    """Clips of equal length (B, heads, T, d) by torch's fused attention -> (B, T, heads, d)."""
    mask = None if bias is None else _columns(bias, key.shape[2]).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate, scale=scale).transpose(
        1, 2
    )


def _columns(bias: Tensor, keys: int) -> Tensor:
    """(1, 1, 1, keys): the bias of the first keys, zero for the others."""
    return F.pad(bias, (0, keys - len(bias)))[None, None, None]


def _padded(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, rate: float) -> Tensor:
    """All clips side by side, padded within attention alone, as a GPU likes it."""
    lengths = torch.tensor(packing.lengths, device=query.device)
    inside = torch.arange(max(packing.lengths), device=query.device)[None, :] < lengths[:, None]

    def padded(tensor: Tensor) -> Tensor:  # (1, heads, N, d) -> (B, heads, T, d)
        frames = tensor.new_zeros(*inside.shape, tensor.shape[1], tensor.shape[3])
        frames[inside] = tensor[0].transpose(0, 1)
        return frames.transpose(1, 2)

    mask = inside[:, None, None, :]
    if packing.bias is not None:
        columns = _columns(packing.bias, inside.shape[1]).to(query.dtype)
        mask = columns.masked_fill(~mask, torch.finfo(query.dtype).min)
    made = F.scaled_dot_product_attention(
        padded(query), padded(key), padded(value), attn_mask=mask, dropout_p=rate, scale=scale
    )
    return made.transpose(1, 2)[inside][None]


def _flash(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts = torch.tensor([0, *lengths], device=query.device).cumsum(0).to(torch.int32)
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    longest = max(lengths)
    made = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale)
    assert isinstance(made, Tensor)
    return made[None]
