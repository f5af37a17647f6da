import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster.embeddings.pooling import POOLINGS, last_token_pool, mean_pool, weighted_mean_pool


def slow_weighted_mean(states: np.ndarray) -> np.ndarray:
    total = sum(range(1, len(states) + 1))
    pooled = sum((i + 1) / total * state for i, state in enumerate(states.astype(np.float64)))
    return pooled / np.linalg.norm(pooled)


def slow_mean(states: np.ndarray) -> np.ndarray:
    pooled = states.astype(np.float64).mean(axis=0)
    return pooled / np.linalg.norm(pooled)


def slow_last(states: np.ndarray) -> np.ndarray:
    return states[-1] / np.linalg.norm(states[-1].astype(np.float64))


SLOW = {"weighted_mean": slow_weighted_mean, "mean": slow_mean, "last_token": slow_last}


def test_three_tokens_weigh_one_two_and_three_sixths():
    hidden = torch.tensor([[[6.0, 0.0], [0.0, 6.0], [6.0, 6.0], [99.0, -99.0]]])  # one example of three tokens and a padded place
    mask = torch.tensor([[1, 1, 1, 0]])
    pooled = np.array([1 + 3, 2 + 3]) / np.sqrt(16 + 25)
    np.testing.assert_allclose(weighted_mean_pool(hidden, mask).numpy(), [pooled], rtol=1e-6)
    np.testing.assert_allclose(mean_pool(hidden, mask).numpy(), [[np.sqrt(0.5), np.sqrt(0.5)]], rtol=1e-6)
    np.testing.assert_allclose(last_token_pool(hidden, mask).numpy(), [[np.sqrt(0.5), np.sqrt(0.5)]], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), on_left=st.booleans(), seed=st.integers(0, 1000))
def test_pooling_equals_the_loop_over_one_example_with_padding_on_either_side(lengths, on_left, seed):
    rng = np.random.default_rng(seed)
    num_tokens = max(lengths) + 3
    hidden = rng.normal(size=(len(lengths), num_tokens, 6)).astype(np.float32)
    places = [slice(num_tokens - length, num_tokens) if on_left else slice(0, length) for length in lengths]
    mask = np.zeros((len(lengths), num_tokens), np.int64)
    for row, place in enumerate(places):
        mask[row, place] = 1
    for name, pool in POOLINGS.items():
        pooled = pool(torch.from_numpy(hidden), torch.from_numpy(mask)).numpy()
        expected = [SLOW[name](hidden[row, place]) for row, place in enumerate(places)]
        np.testing.assert_allclose(pooled, expected, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_what_stands_on_padding_never_enters(pooling):
    hidden = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    spoilt = hidden.clone()
    spoilt[0, 3:] = float("nan")
    assert torch.equal(POOLINGS[pooling](hidden, mask), POOLINGS[pooling](spoilt, mask))


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_half_precision_states_are_pooled_in_fp32(pooling):
    hidden = torch.randn(1, 400, 4, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    mask = torch.ones(1, 400)
    pooled = POOLINGS[pooling](hidden, mask)
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled.numpy()[0], SLOW[pooling](hidden[0].float().numpy()), atol=1e-5)


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_an_example_without_tokens_is_named(pooling):
    with pytest.raises(ValueError, match=r"rows \[1\] of the batch hold no tokens; drop empty examples in cleaning first"):
        POOLINGS[pooling](torch.zeros(3, 4, 2), torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]))
