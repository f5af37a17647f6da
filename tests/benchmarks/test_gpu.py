"""What the GPU benchmark builds and counts, on the CPU with a very small model."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import zstandard

from benchmarks import gpu
from benchmarks.embedding import SOURCES
from benchmarks.figures import Figures
from benchmarks.gpu import (
    LENGTH_QUANTILES,
    Shape,
    build_model,
    encode,
    make_batches,
    make_texts,
    matrix_rate,
    measure,
    model_flops,
    run_batches,
    spread_lengths,
)
from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.settings import EncoderSettings

SMALL = Shape(layers=2, hidden=64, inner=96, heads=4, kv_heads=2, bias=True)


@pytest.mark.parametrize("shape", [SMALL, replace(SMALL, bias=False, layers=3)])
def test_flops_are_two_for_each_weight_and_token_and_each_pair_of_attention(shape):
    model = build_model(shape, vocabulary=50, dtype="float32", device="cpu")
    assert model.config.model_type == ("qwen2" if shape.bias else "llama")
    weights = sum(part.weight.numel() for part in model.base_model.layers.modules() if isinstance(part, torch.nn.Linear))
    lengths = np.array([1, 5, 9])
    attention = sum(2 * 2 * shape.hidden * seen for length in lengths for seen in range(1, length + 1))
    assert model_flops(shape, lengths) == 2 * weights * 15 + shape.layers * attention


def test_lengths_are_spread_as_in_the_pools():
    lengths = spread_lengths(2000)
    assert abs(np.median(lengths) - LENGTH_QUANTILES[10]) <= 1 and LENGTH_QUANTILES[0] <= lengths.min() and lengths.max() <= 1024
    assert abs(lengths.mean() - 168) < 8
    np.testing.assert_array_equal(lengths, spread_lengths(2000))


def test_texts_are_real_ones_or_of_their_lengths(tmp_path):
    (tmp_path / "pool").mkdir()
    for number, source in enumerate(SOURCES):
        row = json.dumps({"messages": [{"role": "user", "content": f"{source} {number}"}, {"role": "assistant", "content": "yes"}]})
        (tmp_path / "pool" / f"{source}.jsonl.zst").write_bytes(zstandard.compress(f"{row}\n{row}\n".encode()))
    assert len(make_texts(100, tmp_path)) == 2 * len(SOURCES) and all("<|user|>" in text for text in make_texts(100, tmp_path))
    assert sorted(text.count("the") for text in make_texts(50, None)) == sorted(spread_lengths(50))


def test_all_ways_run_and_every_example_is_in_a_batch_once(tmp_path, capsys, monkeypatch):
    """On the CPU: the whole measurement, with products that it can bear."""
    monkeypatch.setitem(gpu.SHAPES, "small", SMALL)
    monkeypatch.setattr(gpu, "matrix_rate", lambda device: matrix_rate(device, size=64, products=1))
    figures, texts = Figures("gpu"), make_texts(12, None)
    measure(figures, "small", texts, tmp_path, repeats=2, device="cpu")
    assert set(figures.ratios) == {
        "small: model FLOPs / bf16 products of the card",
        "small: encoder / encoder, batches made before",
        "small: encoder / transformers, sorted batches",
        "small: encoder / the paper's way",
    }
    assert "small: 12 texts of" in capsys.readouterr().out
    encoder = load_encoder(EncoderSettings(name="random", model=str(tmp_path), device="cpu"))
    batches = make_batches(encoder, [[1] * length for length in range(1, 30)])
    assert sorted(row for batch in batches for row in batch.rows) == list(range(29))
    assert run_batches(encoder.runner, batches) == sum(range(1, 30))
    assert encode(encoder, ["good morning"] * 3) % 3 == 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_gpu_it_says_so_in_one_line():
    said = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("torch finds no GPU here") and said.stderr.count("\n") == 1
