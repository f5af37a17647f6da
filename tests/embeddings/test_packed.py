"""Packed batches give the vectors of padded ones, where the model's attention allows it; on a GPU also whatever stands beside an example."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
)

from benchmarks.gpu import shipped_tokenizer
from rds_dagster.embeddings.backbone import Backbone, load_model
from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.identity import describe_encoder
from rds_dagster.embeddings.packed import ATTENTION, PackedBackbone, can_compile, try_packing
from rds_dagster.embeddings.packing import PackRules
from rds_dagster.embeddings.running import OneAhead
from rds_dagster.embeddings.settings import EncoderSettings

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 16}
LLAMA = LlamaConfig(**SMALL, num_key_value_heads=2)
WORDS = ("the", "sum", "of", "twelve", "and", "thirty", "is", "good", "morning", "why", "does", "air", "scatter", "light")


@pytest.fixture
def folder_of(tmp_path):
    """A function: a config -> a model folder with random weights and the shipped tokenizer."""

    def make(config, dtype="float32"):
        tokenizer = shipped_tokenizer()
        config.vocab_size = len(tokenizer)
        config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModel.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return make


def encoder_of(folder, **chosen):
    return load_encoder(EncoderSettings(**{"name": "random", "model": str(folder), "device": "cpu", "batch_tokens": 256, "max_tokens": 64, **chosen}))


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(count)]


@pytest.mark.parametrize("pooling", ["weighted_mean", "mean", "last_token"])
@pytest.mark.parametrize("config", [LLAMA, Qwen2Config(**SMALL, num_key_value_heads=1), GPT2Config(n_embd=64, n_layer=2, n_head=4)], ids=lambda c: c.model_type)
def test_packed_vectors_are_those_of_padded_batches(folder_of, config, pooling):
    encoder = encoder_of(folder_of(config), pooling=pooling)
    padded = encoder.encode(texts(50))
    assert encoder.made_on.endswith("batch 256")
    encoder.runner = OneAhead(try_packing(encoder.runner.backbone))
    assert encoder.runner.rules == PackRules()
    np.testing.assert_allclose(encoder.encode(texts(50)), padded, atol=2e-6)
    assert encoder.made_on.endswith("batch 256 packed")


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SMALL),
        MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8),
        Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16),
        MambaConfig(hidden_size=64, num_hidden_layers=2),
        Phi3Config(**SMALL, num_key_value_heads=4, original_max_position_embeddings=16, max_position_embeddings=64, rope_parameters=LONG_ROPE),
        LlamaConfig(**(SMALL | {"num_attention_heads": 16}), num_key_value_heads=16),
    ],
    ids=["both ways", "window", "capped scores", "states", "moving positions", "heads of 4 numbers"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Mamba's, that its kernels are not there
def test_a_model_that_asks_more_of_its_attention_stays_as_it_is(folder_of, config):
    identity = describe_encoder(EncoderSettings(name="random", model=str(folder_of(config)), device="cpu", max_tokens=64))
    backbone = Backbone(identity, load_model(identity), "cpu")
    before = backbone.model.config._attn_implementation
    assert try_packing(backbone) is None
    assert backbone.model.config._attn_implementation == before != ATTENTION


def test_attention_that_sees_the_neighbour_is_found_out(folder_of, monkeypatch):
    """A model that takes our attention's name and then goes its own way."""
    identity = describe_encoder(EncoderSettings(name="random", model=str(folder_of(LLAMA)), device="cpu", max_tokens=64))
    backbone = Backbone(identity, load_model(identity), "cpu")
    whole = "rds_dagster.embeddings.packed._attend_one_by_one"
    monkeypatch.setattr(
        whole,
        lambda query, key, value, ends, scaling: torch.nn.functional.scaled_dot_product_attention(
            *(heads.transpose(0, 1) for heads in (query, key, value)), is_causal=True, scale=scaling, enable_gqa=True
        ).transpose(0, 1),
    )
    assert try_packing(backbone) is None


def test_texts_on_a_cpu_are_not_packed(folder_of):
    assert not isinstance(encoder_of(folder_of(LLAMA)).runner.backbone, PackedBackbone)


# ---- on a GPU ------------------------------------------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is there")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("config", [LLAMA, Qwen2Config(**SMALL, num_key_value_heads=1)], ids=lambda config: config.model_type)
def test_on_a_gpu_a_vector_has_the_same_bits_in_any_company(folder_of, config):
    encoder = encoder_of(folder_of(config, "bfloat16"), device="cuda", batch_tokens=2048, max_tokens=512)
    assert isinstance(encoder.runner.backbone, PackedBackbone) and can_compile() and encoder.made_on.endswith("batch 2048 packed compiled")
    given = texts(400)
    vectors = encoder.encode(given)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(given))[: 400 - 7 * seed]
        np.testing.assert_array_equal(encoder.encode([given[row] for row in order]).view(np.uint32), vectors[order].view(np.uint32))
    for row in range(20):
        np.testing.assert_array_equal(encoder.encode([given[row]]).view(np.uint32), vectors[row : row + 1].view(np.uint32))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("pooling", ["weighted_mean", "mean", "last_token"])
def test_on_a_gpu_vectors_are_those_of_the_cpu_up_to_their_dtype(folder_of, pooling):
    folder = folder_of(LLAMA, "bfloat16")
    on_cpu = encoder_of(folder, pooling=pooling, dtype="float32").encode(texts(100))
    on_gpu = encoder_of(folder, pooling=pooling, device="cuda").encode(texts(100))
    assert (on_cpu * on_gpu).sum(axis=1).min() > 0.999


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_a_model_that_sees_both_ways_runs_in_padded_batches(folder_of):
    folder = folder_of(BertConfig(**SMALL))
    on_gpu = encoder_of(folder, device="cuda", dtype="bfloat16")
    assert not isinstance(on_gpu.runner.backbone, PackedBackbone)
    assert (on_gpu.encode(texts(60)) * encoder_of(folder).encode(texts(60))).sum(axis=1).min() > 0.999
