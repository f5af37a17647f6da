"""From the hidden states of an example's tokens to one vector: pooled in fp32, then scaled to norm 1.

B batch, T tokens, D hidden size. Every function takes hidden (B, T, D), any float dtype, and mask (B, T), 1 or True = real token, with the
padding on either side, and returns (B, D) float32 of norm 1; it raises ValueError if an example has no tokens. What stands on padding
never enters, not even a NaN. The mask may stay on the host while the states are on a GPU: the host then waits for nothing there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rds_dagster.embeddings.devices import to_device
from rds_dagster.embeddings.settings import Pooling

if TYPE_CHECKING:
    from torch import Tensor


def weighted_mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Token i of L weighs i / (1 + ... + L), so later tokens count more: they have seen more of the text.

    Undoes the causal mask's bias to early tokens. Source: SGPT (arXiv 2202.08904), as used by RDS+ (arXiv 2503.01807).
    """
    return _pool(hidden, _place(mask))


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Every real token weighs the same."""
    return _pool(hidden, (_place(mask) > 0).float())


def last_token_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last real token alone (plain RDS: the end-of-text token of a rendered conversation)."""
    place = _place(mask)  # (B, T)
    return _pool(hidden, (place == place.amax(dim=1, keepdim=True)).float() * (place > 0))


POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "weighted_mean": weighted_mean_pool,
    "mean": mean_pool,
    "last_token": last_token_pool,
}


def _place(mask: Tensor) -> Tensor:
    """(B, T) float32: 1..L on an example's L real tokens, 0 on padding. Exact: float32 counts to 16,777,216."""
    real = mask.bool()
    if not real.any(dim=1).all():
        empty = (~real.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"rows {empty} of the batch hold no tokens; drop empty examples in cleaning first")
    return (real.cumsum(dim=1) * real).float()


def _pool(hidden: Tensor, weight: Tensor) -> Tensor:
    import torch

    if len(hidden) == 1:  # on Intel's processors MKL sums a product that comes alone in another order
        return _pool(hidden.expand(2, -1, -1), weight.expand(2, -1))[:1]
    share = weight / weight.sum(dim=1, keepdim=True)  # (B, T)
    if share.device != hidden.device:
        share = to_device(share, str(hidden.device))
    real = hidden.float().masked_fill((share == 0).unsqueeze(-1), 0.0)  # (B, T, D)
    pooled = torch.einsum("btd,bt->bd", real, share)
    return torch.nn.functional.normalize(pooled, dim=1)
