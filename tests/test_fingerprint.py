import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster import fingerprint as fingerprint_module
from rds_dagster.fingerprint import ID_DTYPE, CodedTexts, content_digest, file_digest, fingerprint, ids_fingerprint, seeded_fractions

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def made_ids(count: int) -> np.ndarray:
    return np.array([content_digest(str(number).encode()) for number in range(count)], ID_DTYPE)


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str
    inner: Inner
    shares: tuple[float, ...]


def test_a_fingerprint_is_blake2b_of_the_json_list_of_its_parts():
    by_hand = hashlib.blake2b(b'["clean",1,{"a":[true,null],"b":0.5}]', digest_size=16).hexdigest()
    assert fingerprint("clean", 1, {"b": 0.5, "a": [True, None]}) == by_hand == "198647fb65f68f27d85be779cc710b63"


def test_another_process_gives_the_same_fingerprint():
    code = "from rds_dagster.fingerprint import fingerprint; print(fingerprint('clean', {'b': 1, 'a': 'ü'}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}).stdout
    assert said.strip() == fingerprint("clean", {"a": "ü", "b": 1})


@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_the_order_of_keys_does_not_matter(value):
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "b"), ("ab",)), ((1,), ("1",)), ((1,), (True,)), ((1,), (1.0,)), ((None,), ("",)), ((["a"], "b"), (["a", "b"],)), (({"a": None},), ({},))],
)
def test_what_differs_has_another_fingerprint(one, other):
    assert fingerprint(*one) != fingerprint(*other)


def test_a_dataclass_counts_as_its_fields_and_a_tuple_as_a_list():
    settings = Settings("x", Inner(3), (0.5, 1.0))
    assert fingerprint(settings) == fingerprint({"name": "x", "inner": {"depth": 3}, "shares": [0.5, 1.0]})
    assert fingerprint(settings) != fingerprint(dataclasses.replace(settings, inner=Inner(4)))


def test_bytes_count_as_hex_and_numbers_of_numpy_as_numbers():
    assert fingerprint(b"\x00\xff", np.int64(7), np.float64(0.25), np.bool_(True)) == fingerprint("00ff", 7, 0.25, True)
    assert fingerprint(np.array([b"\x01\x02"])[0]) == fingerprint("0102")


@given(st.lists(st.none() | st.sampled_from(['a "quoted" one', "back\\slash", "ünïcödé 中文", "null", "line\nbreak", "\ud800"])), st.integers(1, 4))
def test_coded_texts_count_as_the_list_that_they_stand_for(texts, hashed_rows):
    kinds = sorted({text for text in texts if text is not None})
    codes = np.array([-1 if text is None else kinds.index(text) for text in texts], np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint_module, "HASHED_ROWS", hashed_rows)
        assert fingerprint("before", CodedTexts(kinds, codes), 2) == fingerprint("before", texts, 2)


def test_half_of_a_surrogate_pair_has_a_fingerprint_too():
    assert fingerprint("\ud800") != fingerprint("\ud801")


@pytest.mark.parametrize("value", [{1, 2}, object(), Path("x"), Settings])
def test_what_has_no_json_is_refused_by_its_type(value):
    with pytest.raises(TypeError, match=f"cannot take a fingerprint of {type(value).__name__}; give JSON values or frozen dataclasses"):
        fingerprint({"a": [value]})


def test_a_number_that_is_none_is_refused():
    with pytest.raises(ValueError, match="Out of range float values"):
        fingerprint(float("nan"))


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20), st.randoms())
def test_the_order_of_ids_does_not_matter(ids, random):
    shuffled = random.sample(ids, len(ids))
    assert ids_fingerprint(np.array(ids, ID_DTYPE)) == ids_fingerprint(np.array(shuffled, ID_DTYPE))


def test_an_id_counts_as_often_as_it_stands():
    ids = made_ids(3)
    prints = {ids_fingerprint(np.repeat(ids, times)) for times in ([1, 1, 1], [2, 1, 1], [3, 1, 1], [1, 2, 1], [2, 2, 1], [1, 1, 0])}
    assert len(prints) == 6


def test_the_fingerprint_of_ids_is_blake2b_of_the_sorted_ids_end_to_end():
    low, high = bytes(15) + b"\x01", b"\xff" * 15 + b"\x00"  # ends in a zero byte, which numpy does not show
    by_hand = hashlib.blake2b(low + high, digest_size=16).hexdigest()
    assert ids_fingerprint(np.array([high, low], ID_DTYPE)) == by_hand
    assert ids_fingerprint(np.empty(0, ID_DTYPE)) == hashlib.blake2b(digest_size=16).hexdigest()


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 10_000  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert file_digest(tmp_path / "a") == content_digest(data).hex() == hashlib.blake2b(data, digest_size=16).hexdigest()


def slow_fraction(id: bytes, seed: int) -> float:
    def splitmix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    low, high = int.from_bytes(id[:8], "little"), int.from_bytes(id[8:], "little")
    key = int.from_bytes(hashlib.blake2b(f"seed {seed}".encode(), digest_size=16).digest()[:8], "little")
    return (splitmix(splitmix(low ^ key) ^ high) >> 11) / 2**53


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=5), st.integers(-5, 2**70))
def test_fractions_are_those_of_whole_number_arithmetic(ids, seed):
    assert seeded_fractions(np.array(ids, ID_DTYPE), seed, "seed").tolist() == [slow_fraction(id, seed) for id in ids]


def test_fractions_are_pinned_since_samples_and_random_mixtures_hang_on_them():
    ids = np.array([bytes(16), bytes(range(16))], ID_DTYPE)
    assert seeded_fractions(ids, 0, "seed").tolist() == [0.9285599826258697, 0.8956208380653407]
    assert seeded_fractions(ids, 7, "seed").tolist() == [0.29541640315852347, 0.20959910496558987]


def test_a_fraction_hangs_on_the_id_and_the_seed_alone():
    ids = made_ids(1000)
    whole = seeded_fractions(ids, 3, "seed")
    assert (seeded_fractions(ids[::7], 3, "seed") == whole[::7]).all()
    assert (seeded_fractions(ids[::-1], 3, "seed") == whole[::-1]).all()
    assert not (seeded_fractions(ids, 4, "seed") == whole).any()


def test_fractions_fill_the_unit_interval_evenly_whatever_the_seed():
    ids = made_ids(20_000)
    ordered = np.array([number.to_bytes(16, "big") for number in range(20_000)], ID_DTYPE)  # ids that are no hashes
    for some in (ids, ordered):
        fractions = [seeded_fractions(some, seed, "seed") for seed in (0, 1)]
        for one in fractions:
            assert one.min() >= 0 and one.max() < 1
            counts = np.histogram(one, bins=20, range=(0, 1))[0]
            assert abs(counts - 1000).max() < 155  # five standard deviations of 31
        assert abs(np.corrcoef(fractions)[0, 1]) < 0.036  # five standard deviations
