import pytest

from rds_dagster.embeddings.settings import EncoderSettings, WhitenSettings
from rds_dagster.errors import SettingsError


def test_the_default_is_the_bundled_model_pooled_as_in_rds_plus():
    settings = EncoderSettings()
    assert (settings.model, settings.pooling, settings.what, settings.max_tokens) == ("tiny", "weighted_mean", "full", None)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "My-Encoder", "encoder name is 'My-Encoder'; expected small letters"),
        ("model", " ", "model is ' '; expected a model folder, a hub id, or one of tiny, minilm"),
        ("model", None, "model is None"),
        ("pooling", "weigthed_mean", "pooling is 'weigthed_mean'; expected one of last_token, mean, weighted_mean; did you mean 'weighted_mean'"),
        ("what", "answer", "what is 'answer'; expected one of first_two, full, label, prompt"),
        ("dtype", "fp16", "dtype is 'fp16'; expected one of auto, bfloat16, float16, float32"),
        ("device", "gpu", "device is 'gpu'; expected one of auto, cpu, cuda, mps"),
        ("max_tokens", 7, "max_tokens is 7; expected a whole number of tokens, at least 8, or null"),
        ("max_tokens", True, "max_tokens is True"),
        ("max_tokens", 512.0, "max_tokens is 512.0"),
        ("batch_tokens", 0, "batch_tokens is 0; expected a whole number of tokens, at least 1"),
        ("batch_tokens", "2048", "batch_tokens is '2048'"),
        ("whiten", {"dims": 64}, "whiten is {'dims': 64}; expected WhitenSettings(dims=...), or None"),
    ],
)
def test_a_wrong_setting_is_refused_in_words(field, value, words):
    with pytest.raises(SettingsError) as caught:
        EncoderSettings(**{field: value})
    assert words in str(caught.value)


@pytest.mark.parametrize("dims", [0, -1, True, 64.0, "64", None])
def test_a_wrong_size_of_whitened_vectors_is_refused_in_words(dims):
    with pytest.raises(SettingsError, match=rf"encoder: whiten\.dims is {dims!r}; expected a whole number, at least 1"):
        WhitenSettings(dims)
    assert EncoderSettings(whiten=WhitenSettings(64)).whiten.dims == 64
