"""The language model that the package carries: it is whole, it is what its card says, and it tells kinds of text apart."""

import hashlib
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rds_dagster.demo.plan import POOLS
from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.identity import TINY_FOLDER, describe_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.mixtures.selectors import round_robin_queries
from rds_dagster.pools.render import render
from rds_dagster.scores.similarity import score_block

CARD = (TINY_FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(EncoderSettings(device="cpu", dtype="float32"))


def test_it_is_the_default_encoder():
    identity = describe_encoder(EncoderSettings(device="cpu"))
    assert (identity.folder, identity.max_tokens, identity.eos, identity.pooling) == (TINY_FOLDER, 1024, "<|eos|>", "weighted_mean")


def test_its_files_are_small_and_those_that_the_card_was_written_for():
    sums = dict(re.findall(r"^\| (\S+)\s+\| ([0-9a-f]{64}) ", CARD, re.MULTILINE))
    files = sorted(file.name for file in TINY_FOLDER.iterdir() if file.name != "README.md")
    assert sorted(sums) == files
    for file in files:
        assert hashlib.sha256((TINY_FOLDER / file).read_bytes()).hexdigest() == sums[file], file
    assert (TINY_FOLDER / "model.safetensors").stat().st_size <= 10_000_000


def test_its_chat_template_is_the_packages():
    tokenizer = AutoTokenizer.from_pretrained(TINY_FOLDER)
    messages = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Why?\n"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And how?"},
        {"role": "assistant", "content": "", "tool_calls": '[{"id": "1"}]'},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "42."},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == render(messages, what="full", eos="<|eos|>")


def test_it_has_learnt_language():
    tokenizer, model = AutoTokenizer.from_pretrained(TINY_FOLDER), AutoModelForCausalLM.from_pretrained(TINY_FOLDER, dtype=torch.float32)
    question = "Sarah has 12 apples. She gives 5 of them to her brother. How many apples does she have left?"
    words = question.split()
    shuffled = np.random.default_rng(0).permutation(words).tolist()

    def bits(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1) / np.log(2)

    sense, nonsense = (bits(f"<|user|>\n{' '.join(order)}") for order in (words, shuffled))
    assert sense / len(" ".join(words)) < 2.0, "bits per byte"
    assert nonsense > 1.3 * sense


def test_a_demo_task_gets_the_pool_of_its_own_kind(encoder):
    import random

    rng = random.Random(5)
    made = [(plan.pool, plan.make(rng).conversation) for plan in POOLS for _ in range(40)]
    vectors = encoder.encode_conversations([list(conversation) for _, conversation in made])
    for kind in ("arithmetic", "programs", "reading"):
        (plan,) = (plan for plan in POOLS if plan.pool == kind)
        queries = encoder.encode_conversations([list(plan.make(rng).conversation) for _ in range(8)])
        scored = score_block(vectors, queries, depth=len(made))
        picks = round_robin_queries(scored.top.rows, scored.top.scores, budget=30, complete=True)
        share = np.mean([made[row][0] == kind for row in picks.rows])
        assert share >= 0.9, f"{kind}: {share:.0%} of its own kind; by chance it is 17%"
