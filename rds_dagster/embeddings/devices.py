"""Which devices an encoder runs on, and how arrays get there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rds_dagster.embeddings.identity import resolve_device
from rds_dagster.embeddings.settings import EncoderSettings

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = {
    # tiny, one batch a core on two cores, 4,000 texts of 167 tokens: 36,279 real tokens/s at 1024, 31,107 at 2048.
    # MiniLM on one core, 2,000 Alpaca texts: 3,115 at 512, 2,976 at 1024, 2,628 at 2048.
    "cpu": 1024,
    # Qwen's shape of 0.5B, packed, on an H200: 563,000 tokens/s at 16384, 575,000 at 32768, 553,000 at 65536.
    "cuda": 32768,
    "mps": 8192,  # not measured
}
"""Tokens of a batch, padding included, by kind of device."""


def find_devices(settings: EncoderSettings) -> tuple[str, ...]:
    """The devices to run on, as torch calls them: with ``device: auto`` every GPU of the first one's kind, so that all give the same bits; else one.

    Raises SettingsError where the one asked for is not there.
    """
    import torch

    device = resolve_device(settings)
    if device != "cuda" or settings.device != "auto":
        return (device,)
    kinds = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return tuple(f"cuda:{number}" for number, kind in enumerate(kinds) if kind == kinds[0])


def kind_of(device: str) -> str:
    """``cuda`` of ``cuda:1``."""
    return device.partition(":")[0]


def device_name(device: str) -> str:
    """The kind as its maker or torch calls it, as far as it decides the last bits: ``AVX512`` of a CPU, ``NVIDIA H100 80GB HBM3`` of a GPU."""
    import torch

    if kind_of(device) == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() if device == "cpu" else "gpu"


def to_device(host: Tensor, device: str) -> Tensor:
    """A host's tensor on ``device``; to a GPU through pinned memory, so that the copy waits for nothing and nothing waits for it."""
    if kind_of(device) == "cuda":
        return host.pin_memory().to(device, non_blocking=True)  # torch keeps the pinned memory until the copy is done
    return host.to(device)
