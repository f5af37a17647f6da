"""From the hidden states of an example's tokens to one vector: pooled in fp32, then scaled to norm 1.

B batch, T tokens, D hidden size. Every function takes hidden (B, T, D), any float dtype, and mask (B, T), 1 or True = real token, with the
padding on either side, and returns (B, D) float32 of norm 1; it raises ValueError if an example has no tokens. What stands on padding
never enters, not even a NaN. The mask may stay on the host while the states are on a GPU: the host then waits for nothing there.
``pool_packed`` does the same for examples that stand one behind the other (packing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rds_dagster.embeddings.devices import to_device
from rds_dagster.embeddings.settings import Pooling

if TYPE_CHECKING:
    from torch import Tensor

PIECE_TOKENS = 32  # of an example summed at once: a GPU's thread adds so many rows, then at most 64 such sums of 2,048 tokens


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


def pool_packed(hidden: Tensor, lengths: np.ndarray, pooling: Pooling) -> Tensor:
    """The same, (S, D) float32 of norm 1, of S examples one behind the other: hidden (T, D), lengths (S,) int32, on the host, that add up to T.

    An example is summed in pieces counted from its own beginning, so that its bits do not depend on where it stands.
    """
    import torch

    device = str(hidden.device)
    share = to_device(torch.from_numpy(_packed_shares(lengths, pooling)), device)  # (T,)
    num_pieces = -(-lengths // PIECE_TOKENS)  # of each example
    piece_lengths = np.full(num_pieces.sum(), PIECE_TOKENS, np.int64)
    piece_lengths[np.cumsum(num_pieces) - 1] = lengths - (num_pieces - 1) * PIECE_TOKENS
    pooled = hidden.float() * share.unsqueeze(1)
    for sizes in (piece_lengths, num_pieces.astype(np.int64)):
        pooled = torch.segment_reduce(pooled, "sum", lengths=to_device(torch.from_numpy(sizes), device), unsafe=True)  # unsafe: does not look at the lengths
    return torch.nn.functional.normalize(pooled, dim=1)


def _packed_shares(lengths: np.ndarray, pooling: Pooling) -> np.ndarray:
    """What each token weighs in its example, (T,) float32."""
    length = np.repeat(lengths, lengths).astype(np.float64)
    place = places_packed(lengths) + 1.0
    share = {"weighted_mean": place / (length * (length + 1) / 2), "mean": 1 / length, "last_token": place == length}[pooling]
    narrow: np.ndarray = share.astype(np.float32)
    return narrow


def places_packed(lengths: np.ndarray) -> np.ndarray:
    """(T,) int64: 0..L-1 on each of the examples that stand one behind the other, lengths (S,)."""
    starts = np.cumsum(lengths) - lengths
    places: np.ndarray = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    return places


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
