"""What all tests share: no network, no telemetry, a small real causal model, and the folder of real data."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["GX_ANALYTICS_ENABLED"] = "false"

from pathlib import Path

import pytest

SENTENCES = [
    "<|user|>\nWhat is the sum of 12 and 30?\n<|assistant|>\nThe sum of 12 and 30 is 42.",
    "<|system|>\nYou answer in one sentence.\n<|user|>\nWhy is the sky blue?\n<|assistant|>\nAir scatters short waves of light more than long ones.",
    "<|user|>\nWrite a function that doubles a number.\n<|assistant|>\ndef double(x):\n    return 2 * x",
    "<|user|>\nTranslate to German: good morning, how are you?\n<|assistant|>\nGuten Morgen, wie geht es dir?",
]


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real causal language model: a Llama of 2 layers, 64 wide, random weights (seed 0), and a byte-level BPE tokenizer.

    The tokenizer puts ``<s>`` in front, has ``</s>`` as its end-of-text token and, like Llama's own, no padding token. Do not write to it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = _train_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,  # large enough that a token's state depends on the tokens before it
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that RDS_REAL_DATA names (pool/, tasks/)."""
    named = os.environ.get("RDS_REAL_DATA")
    if not named:
        pytest.skip("RDS_REAL_DATA is not set; it names the folder of real data (see benchmarks/real/README.md)")
    return Path(named)


def _train_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
