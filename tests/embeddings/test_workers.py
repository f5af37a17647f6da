"""Two real processes with a core each: the bits of one process, and a clear word when one of them ends."""

import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rds_dagster.embeddings.batching import Batch
from rds_dagster.embeddings.encoder import SLAB_TEXTS, load_encoder
from rds_dagster.embeddings.identity import describe_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.embeddings.workers import Workers
from rds_dagster.errors import StateError

TWO = ("cpu", "cpu")


def settings(folder, **chosen):
    return EncoderSettings(name="tiny", model=str(folder), device="cpu", batch_tokens=256, max_tokens=32, **chosen)


def batches(count):
    for number in range(count):
        yield Batch(np.array([number]), np.full((1, 16), number, np.int32), np.array([16], np.int32))


@pytest.mark.slow
def test_two_processes_give_every_row_once_with_the_bits_of_one(tiny_llama_folder):
    texts = [f"{number} is the sum of {' and '.join('12' * (number % 9))}" for number in range(SLAB_TEXTS + 300)]
    expected = load_encoder(settings(tiny_llama_folder)).encode(texts)
    encoder = load_encoder(settings(tiny_llama_folder), devices=TWO)
    np.testing.assert_array_equal(encoder.encode(texts).view(np.uint32), expected.view(np.uint32))
    assert "runner" not in vars(encoder), "no model in this process"
    assert multiprocessing.active_children() == []
    np.testing.assert_array_equal(encoder.encode(texts[:50]).view(np.uint32), expected[:50].view(np.uint32))  # few: in this process
    assert encoder.made_on == load_encoder(settings(tiny_llama_folder)).made_on


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_the_others_end(tiny_llama_folder):
    words = r"the process that embeds on cpu ended with exit code -9 \(killed, perhaps for want of memory\) before its work was done"
    with pytest.raises(StateError, match=words), Workers(describe_encoder(settings(tiny_llama_folder)), TWO, 2) as workers:
        victim, _ = multiprocessing.active_children()
        for encoded in workers.run(batches(400)):
            if encoded.rows[0] == 20:
                os.kill(victim.pid, signal.SIGKILL)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_what_a_process_refuses_is_raised_here(tiny_llama_folder, tmp_path):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "loud")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] * 6e4}, folder / "model.safetensors", metadata={"format": "pt"})
    words = r"row \d+: encoder 'tiny' gives a vector that is not finite in float16"
    with pytest.raises(StateError, match=words), Workers(describe_encoder(settings(folder, dtype="float16")), TWO, 2) as workers:
        list(workers.run(batches(50)))
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StateError, match=r"lacks 1 weights of its model, such as layers\.1\.mlp\.up_proj\.weight"):
        list(load_encoder(settings(folder), devices=TWO).encode_stream(enumerate(["good morning"] * SLAB_TEXTS)))
    assert multiprocessing.active_children() == []
