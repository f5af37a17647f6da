import json
import math
import sys
from hashlib import sha256

import numpy as np
import pytest
import torch
import zstandard

from benchmarks.tiny_lm import evaluate
from benchmarks.tiny_lm.corpus import SOURCES, Texts, digest
from benchmarks.tiny_lm.evaluate import ATTRIBUTION, CODERS, Facts, Measured, dictionaries, figures, frames, lm_bits, load_lm, measure, not_beaten, run, windows
from benchmarks.tiny_lm.train import Plan
from rds_dagster.pools.render import render

EOS = "</s>"  # the small Llama's
THINGS = ["a lighthouse", "an old boat", "the café", "a red fox", "the long way home"]


def record(source, number, *, eos=EOS):
    thing = THINGS[number % len(THINGS)]
    asked = {"role": "user", "content": f"Tell {source} what {thing} costs when {number * 7} people come."}
    return render([asked, {"role": "assistant", "content": f"For {number * 7} people {thing} costs {number * 21} crowns."}], what="full", eos=eos)


@pytest.fixture(scope="module")
def corpus():
    """All sources, 120 records to learn and 6 held out of each."""
    return {source: Texts([record(source, n) for n in range(120)], [record(source, n) for n in range(120, 126)], place) for place, source in enumerate(SOURCES)}


@pytest.fixture(scope="module")
def lm(tiny_llama_folder):
    return load_lm(tiny_llama_folder)


def facts_of(corpus, **plan):
    whole = {"seed": 0, "passes": 1.0, "step_tokens": 8192, **plan}
    return Facts(77, 123_456, 1.25, whole, digest([text for texts in corpus.values() for text in texts.learn]))


def slow_bits(model, rows):
    """One token at a time, each from a run over only what stands before it."""
    bits = 0.0
    with torch.inference_mode():
        for row in rows:
            for place in range(1, len(row)):
                bits -= float(torch.log_softmax(model(input_ids=torch.tensor([row[:place]])).logits[0, -1].double(), 0)[row[place]]) / math.log(2)
    return bits


def test_the_lm_takes_the_bits_of_one_token_after_the_other(lm, corpus):
    """Rows of several lengths in one batch, end markers paid for, BOS free."""
    model, tokenizer = lm
    texts = [*corpus["dolly"].held_out[:2], "x", record("a" * 40, 3) * 2]
    costs, num_tokens = lm_bits(model, tokenizer, texts)
    rows = [[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    assert costs == pytest.approx([slow_bits(model, [row]) for row in rows], rel=1e-5)
    assert num_tokens == sum(len(row) - 1 for row in rows)
    assert rows[3].count(tokenizer.eos_token_id) == 2


def test_a_long_record_is_coded_in_windows_that_begin_anew(lm, monkeypatch):
    model, tokenizer = lm
    assert windows([5, 6, 7, 8, 9], 1, 3) == [[1, 5, 6], [1, 7, 8], [1, 9]]
    assert windows([5, 6], 1, 3) == [[1, 5, 6]]
    monkeypatch.setattr(model.config, "max_position_embeddings", 16)
    text = record("dolly", 5)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) > 32
    rows = [[tokenizer.bos_token_id, *tokens[start : start + 15]] for start in range(0, len(tokens), 15)]
    costs, num_tokens = lm_bits(model, tokenizer, ["x", text, "y"])
    assert costs[1] == pytest.approx(slow_bits(model, rows), rel=1e-5)
    assert num_tokens == len(tokens) + 2


def test_the_bits_of_a_text_do_not_depend_on_its_company(lm, corpus, monkeypatch):
    model, tokenizer = lm
    texts = [*corpus["demo"].held_out, "x", record("b" * 90, 1)]
    together, _ = lm_bits(model, tokenizer, texts)
    monkeypatch.setattr(evaluate, "BATCH_TOKENS", 1)
    assert lm_bits(model, tokenizer, texts)[0] == pytest.approx(together, rel=1e-5)


def test_a_tokenizer_that_loses_bytes_is_refused(lm, tiny_llama_folder):
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    lossy = AutoTokenizer.from_pretrained(tiny_llama_folder)
    lossy.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match=r"the tokenizer does not give back text 1 \('Up'\.\.\.\); bits per byte need one that loses nothing"):
        lm_bits(lm[0], lossy, ["down", "Up"])


def test_zstd_frames_are_read_back_with_the_dictionary_and_are_bare(corpus):
    learn, held_out = ([text.replace(EOS, "").encode() for text in texts] for texts in (corpus["flan_cot"].learn, corpus["flan_cot"].held_out))
    made = dictionaries(learn)
    assert made and all(len(dictionary.as_bytes()) <= sum(map(len, learn)) / 3 for dictionary in made)
    for dictionary in made:
        packed = frames(dictionary, held_out)
        reader = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(dictionary.as_bytes()), format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        assert [reader.decompress(frame, max_output_size=10_000) for frame in packed] == held_out
        plain = zstandard.ZstdCompressor(level=19, dict_data=dictionary)
        assert all(0 < len(frame) <= len(plain.compress(text)) - 8 for frame, text in zip(packed, held_out, strict=True))  # magic number and dictionary id


def test_all_coders_are_charged_for_the_same_bytes(corpus, lm):
    """Those of the record as it is rendered without end markers."""
    few = {source: corpus[source] for source in ("dolly", "demo")}
    measured = measure({**few, "flan_cot": Texts([record("flan_cot", 1)], [], 0)}, *lm)
    assert [row.source for row in measured] == ["dolly", "demo"]  # a source that holds nothing out has no line
    for row in measured:
        assert row.records == 6
        assert row.bytes == sum(len(record(row.source, n, eos="").encode()) for n in range(120, 126))
        assert set(row.bits) == set(CODERS) and all(bits > 0 for bits in row.bits.values())
        assert row.bits["5-gram own"] / row.bytes < 1 < 8 < row.bits["LM"] / row.bytes  # templates against random weights


def test_the_figures_are_those_of_a_worked_example():
    one = Measured("dolly", 2, 1000, 250, {"LM": 1500.0, "5-gram": 2000.0, "5-gram own": 1750.0, "zstd": 2500.0})
    two = Measured("demo", 1, 3000, 750, {"LM": 4500.0, "5-gram": 4500.0, "5-gram own": 3000.0, "zstd": 7500.0})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in figures([one, two]).splitlines()]
    assert lines[0] == ["source", "held-out records", "bytes", "LM", "5-gram", "5-gram own", "zstd", "LM, nats a token"]
    assert lines[2] == ["dolly", "2", "1,000", "1.500", "2.000", "1.750", "2.500", "4.159"]  # 6 bits a token
    assert lines[4] == ["all", "3", "4,000", "1.500", "1.625", "1.188", "2.500", "4.159"]
    assert not_beaten([one, two], ("5-gram", "zstd")) == ["demo (5-gram)"]
    assert not_beaten([one], ("5-gram", "zstd")) == []


def test_the_card_names_every_source_licence_and_file(corpus, tiny_llama_folder, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_llama_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card_path = folder / "README.md"
    card_path.write_text("an older card")
    status = run(corpus, folder, facts_of(corpus, passes=2.0, other_rate=0.5), card_path)
    said, card = capsys.readouterr().out, card_path.read_text()
    assert status == 1  # random weights
    assert "The LM is not better everywhere: flan_cot (5-gram), " in said
    assert "held-out records" in said and said.split("The LM is")[0] in card
    for place, (source, known) in enumerate(SOURCES.items()):
        (line,) = [line for line in card.splitlines() if line.startswith(f"| {source} ") and known.what in line]
        assert [cell.strip() for cell in line.strip("|").split("|")] == [source, known.what, known.licence, "120", "6", str(place), f"{known.passes * 2:g}"]
    sums = {cells[1].strip(): cells[2].strip() for line in card.split("## Files")[1].splitlines()[3:] if (cells := line.split("|"))[0] == ""}
    assert sums == {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.name != "README.md"}
    assert "--data DIR --out OUT --passes 2.0 --other-rate 0.5\n" in card
    assert "123,456 tokens seen in 77 steps, 1.25 hours" in card
    model, _ = load_lm(folder)
    assert f"- {sum(weight.numel() for weight in model.parameters()):,} parameters" in card and "stored in float32: 2 layers, width 64, 4 heads" in card
    assert "Context: 1,024 tokens" in card and "2% of each source" in card


def test_every_source_that_asks_for_attribution_has_one():
    assert {source for source, known in SOURCES.items() if known.licence.startswith("CC BY")} == set(ATTRIBUTION)


def test_text_that_the_run_did_not_learn_is_refused(corpus, tiny_llama_folder):
    facts = facts_of({"dolly": corpus["dolly"]})
    with pytest.raises(ValueError, match=f"the run learnt the text {facts.text}, and that of the data is [0-9a-f]{{32}}, so what is held out here may"):
        run(corpus, tiny_llama_folder, facts, None)


def test_facts_are_read_and_a_missing_one_is_named(tmp_path):
    path = tmp_path / "facts.json"
    whole = {"steps": 3, "tokens": 4, "hours": 0.5, "plan": {"seed": 1}, "text": "00", "shape": [1, 2]}
    path.write_text(json.dumps(whole))
    assert Facts.read(path) == Facts(3, 4, 0.5, {"seed": 1}, "00")
    path.write_text(json.dumps({"steps": 3, "text": "00"}))
    with pytest.raises(ValueError, match=r"facts.json lacks tokens, hours, plan; give the facts.json that train.py wrote at the end of its run"):
        Facts.read(path)


def test_a_command_that_cannot_work_is_refused_before_any_text_is_read(tmp_path, monkeypatch, capsys):
    for more, words in (
        (["--card", "x.md"], "--card needs --facts"),
        ([], f"--model {tmp_path} holds no config.json; give the folder that train.py printed"),
    ):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data", str(tmp_path), "--model", str(tmp_path), *more])
        with pytest.raises(SystemExit) as stopped:
            evaluate.main()
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err


def test_the_settings_of_the_training_command_are_those_of_its_plan():
    """A run of the defaults is made again by the bare command."""
    from dataclasses import asdict

    facts = Facts(1, 1, 1.0, asdict(Plan()), "00")
    assert evaluate._command(facts) == "python benchmarks/tiny_lm/train.py --data DIR --out OUT"
    assert np.isclose(Measured("x", 1, 1, 2, {"LM": 2.0}).nats_per_token, math.log(2))
