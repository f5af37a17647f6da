"""Training of the tiny language model, on a handful of texts: deterministic, resumable, and the tokenizer writes the package's template."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.tiny_lm.corpus import Texts, read_corpus
from benchmarks.tiny_lm.tokenizer import EOS, train_tokenizer
from benchmarks.tiny_lm.train import ChunkedLoss, Plan, Run, Tokens, batches, held_out_loss, sum_loss
from rds_dagster.pools.render import render

PLAN = Plan(step_tokens=200, row_tokens=64, warmup_steps=2, precision="float32", passes=1.0)


def text(number: int) -> str:
    asked = {"role": "user", "content": f"What is {number} plus {number * 7}, and why?"}
    answered = {"role": "assistant", "content": f"It is {number * 8}, since " + "they add up " * (number % 5 + 1)}
    return render([asked, answered], what="full", eos=EOS)


@pytest.fixture(scope="module")
def corpus() -> dict[str, Texts]:
    learn = [text(number) for number in range(60)]
    return {"flan_cot": Texts(learn[:40], [text(100)], 0), "demo": Texts(learn[40:], [], 0)}


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(each for texts in corpus.values() for each in texts.learn)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(run: Run) -> list[np.ndarray]:
    return [weight.detach().numpy() for weight in run.model.parameters()]


def test_a_stopped_run_ends_with_the_bytes_of_an_undisturbed_one(corpus, tmp_path, one_thread):
    whole = Run(PLAN, corpus, tmp_path / "whole", "cpu")
    whole.train(checkpoint_s=1e9)
    stopped = Run(PLAN, corpus, tmp_path / "stopped", "cpu")
    stopped.train(checkpoint_s=1e9, stop_after=3)
    assert 3 == stopped.step < whole.num_steps
    resumed = Run(PLAN, corpus, tmp_path / "stopped", "cpu")
    assert (resumed.step, resumed.tokens_seen) == (3, stopped.tokens_seen)
    resumed.train(checkpoint_s=1e9)
    assert (resumed.step, resumed.tokens_seen) == (whole.num_steps, whole.tokens_seen)
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    folders = [run.finish() for run in (whole, resumed)]
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_it_learns_and_the_finished_folder_loads_as_a_causal_model(corpus, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = Run(replace(PLAN, passes=3.0), corpus, tmp_path, "cpu")
    before = held_out_loss(run.model, run.held_out["flan_cot"])
    run.train(checkpoint_s=1e9)
    folder = run.finish()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    after = held_out_loss(model, Tokens.of(corpus["flan_cot"].held_out, tokenizer))
    assert after < 0.8 * before


def test_a_checkpoint_of_other_text_or_another_plan_is_refused(corpus, tmp_path):
    Run(PLAN, corpus, tmp_path, "cpu").train(checkpoint_s=1e9, stop_after=1)
    with pytest.raises(SystemExit, match=r"is of another run \(plan differ\); give another --out"):
        Run(replace(PLAN, seed=1), corpus, tmp_path, "cpu")
    other = {**corpus, "demo": Texts(corpus["demo"].learn[1:], [], 0)}
    with pytest.raises(SystemExit, match=r"is of another run \(text differ\)"):
        Run(PLAN, other, tmp_path, "cpu")


def test_every_text_is_learnt_as_often_as_its_source_says(corpus, tmp_path):
    run = Run(PLAN, corpus, tmp_path, "cpu")
    times = np.bincount(run.order, minlength=60)
    assert set(times[:40]) == {2, 3} and times[:40].sum() == 100, "flan_cot: two and a half passes"
    assert (times[40:] == 1).all()


def test_the_chunked_loss_has_the_value_and_the_gradients_of_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1100, 16, generator=generator, requires_grad=True)
    embedding = torch.randn(50, 16, generator=generator, requires_grad=True)
    targets = torch.randint(50, (1100,), generator=generator)
    plain = torch.nn.functional.cross_entropy(hidden @ embedding.T, targets, reduction="sum")
    expected = torch.autograd.grad(plain / 3, (hidden, embedding))
    chunked = ChunkedLoss.apply(hidden, embedding, targets)
    torch.testing.assert_close(chunked, plain)
    for got, wanted in zip(torch.autograd.grad(chunked / 3, (hidden, embedding)), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_batch_is_that_of_its_texts_one_at_a_time(corpus, tmp_path):
    run = Run(PLAN, corpus, tmp_path, "cpu")
    run.model.eval()
    with torch.no_grad():
        together = sum(float(sum_loss(run.model, *batch, "float32")) for batch in batches(run.tokens, np.arange(60), 512))
        alone = 0.0
        for number in range(60):
            ids = torch.from_numpy(run.tokens.flat[run.tokens.starts[number] : run.tokens.starts[number + 1]].astype(np.int64))[None]
            alone += float(run.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": " hi \n"}, {"role": "assistant", "content": "ho"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        [
            {"role": "user", "content": "Warm?"},
            {"role": "assistant", "content": "", "tool_calls": '[{"id": 1}]'},
            {"role": "tool", "content": "21"},
            {"role": "assistant", "content": "Yes.", "tool_calls": "[]"},
        ],
    ],
)
def test_the_chat_template_is_the_packages(tokenizer, messages):
    assert tokenizer.apply_chat_template(messages, tokenize=False) == render(messages, what="full", eos=EOS)


def test_the_template_can_ask_for_an_answer(tokenizer):
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|>\nWhy?\n<|assistant|>\n"


def test_a_bos_stands_in_front_digits_stand_alone_and_markers_are_one_token(tokenizer):
    assert tokenizer("<|user|>\nWhat is 123?<|eos|>").tokens() == ["<|bos|>", "<|user|>", "Ċ", "What", "Ġis", "Ġ1", "2", "3", "?", "<|eos|>"]


@pytest.mark.parametrize("said", ["naïve café 東京 🙂\t\tx\n\n  y", "ﷺ\u200b", "<|user|>\n a  b\r\n"])
def test_every_text_comes_back_from_its_tokens(tokenizer, said):
    assert tokenizer.decode(tokenizer(said)["input_ids"], skip_special_tokens=False) == "<|bos|>" + said


@pytest.mark.slow
@pytest.mark.real_data
def test_no_held_out_text_is_learnt_and_two_per_cent_are_held_out(real_data):
    corpus = read_corpus(real_data, eos=EOS)
    learnt = {each for texts in corpus.values() for each in texts.learn}
    held_out = [each for texts in corpus.values() for each in texts.held_out]
    assert not learnt.intersection(held_out)
    for source, texts in corpus.items():
        assert 0.01 < len(texts.held_out) / len(texts.learn) < 0.03, source
