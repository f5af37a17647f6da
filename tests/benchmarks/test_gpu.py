"""What the GPU benchmark builds and counts, on the CPU with a very small model."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.gpu import LENGTH_QUANTILES, Shape, build_model, make_batches, make_runner, model_flops, run_batches, run_one_by_one, spread_lengths

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


def test_both_ways_run_and_every_example_is_in_a_batch_once():
    model = build_model(SMALL, vocabulary=8192, dtype="float32", device="cpu")
    lengths = spread_lengths(12)
    runner = make_runner(model, SMALL, "float32", "cpu")
    batches = make_batches(lengths, runner, 512)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(12))
    assert sum(int(batch.lengths[: len(batch.rows)].sum()) for batch in batches) == lengths.sum()
    assert run_batches(runner, batches) > 0 and run_one_by_one(model, lengths[:2], "cpu") > 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_gpu_it_says_so_in_one_line():
    said = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("torch finds no GPU here") and said.stderr.count("\n") == 1
