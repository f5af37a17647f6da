import pytest
import torch

from rds_dagster.embeddings.devices import find_devices, kind_of
from rds_dagster.embeddings.settings import EncoderSettings


def machine(monkeypatch, names):
    """What torch reports on a machine with these GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: names[number])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("names", "device", "expected"),
    [
        ([], "auto", ("cpu",)),
        (["H100"], "auto", ("cuda:0",)),
        (["H100", "H100"], "auto", ("cuda:0", "cuda:1")),
        (["H100", "A100", "H100"], "auto", ("cuda:0", "cuda:2")),  # another kind gives other bits
        (["H100", "H100"], "cuda", ("cuda",)),
        (["H100", "H100"], "cpu", ("cpu",)),
    ],
)
def test_auto_takes_every_gpu_of_the_first_ones_kind(monkeypatch, names, device, expected):
    machine(monkeypatch, names)
    devices = find_devices(EncoderSettings(device=device))
    assert devices == expected
    assert {kind_of(name) for name in devices} == {"cuda" if "cuda" in expected[0] else "cpu"}
