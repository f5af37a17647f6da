import dataclasses

import pytest

from rds_dagster.errors import SettingsError
from rds_dagster.pools.settings import PoolSettings, check_name


def test_a_pool_needs_no_more_than_a_name_and_a_source():
    pool = PoolSettings(name="dolly_15k", source="data/*.jsonl")
    assert (pool.shape, pool.format, pool.license, pool.sample, pool.sample_seed) == ("auto", "auto", "unknown", None, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["a", "a1", "flan_cot", "gpteacher_codegen"])
def test_names_of_lower_case_letters_digits_and_underscores_pass(name):
    check_name("pool", name)


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("Dolly-15k", "'dolly_15k'"),
        ("1x", "'p_1x'"),
        ("_a", "'a'"),
        ("a b", "'a_b'"),
        ("", "'p'"),
        ("a\n", "'a'"),
        ("é", "'p'"),
        (5, "'p_5'"),
        (None, "'none'"),
    ],
)
def test_any_other_name_is_refused_with_one_that_would_do(name, mend):
    with pytest.raises(SettingsError, match=f"the name of a task is .*expected lower-case letters.*such as {mend}: rename it"):
        check_name("task", name)


def test_the_name_all_is_reserved():
    with pytest.raises(SettingsError, match="the name of a pool is 'all', which stands for all instances in SQL models; rename it, for example to 'all_pool'"):
        PoolSettings(name="all", source="x.jsonl")


@pytest.mark.parametrize("sample", [1, 5000, 1.0, 0.1, None])
def test_a_sample_is_a_number_of_examples_or_a_share(sample):
    assert PoolSettings(name="p", source="x", sample=sample).sample == sample


@pytest.mark.parametrize("sample", [0, -1, 0.0, 1.5, -0.5, float("nan"), float("inf"), True, False, "0.1"])
def test_any_other_sample_is_refused_by_value_with_the_mend(sample):
    with pytest.raises(
        SettingsError, match=r"sample of pool 'p' is .*; expected a whole number of examples above 0, or a share above 0 and at most 1.0: write 5000"
    ):
        PoolSettings(name="p", source="x", sample=sample)


@pytest.mark.parametrize("source", ["", " ", (), ("a", ""), ["a"], 3, None, ("a", 3)])
def test_an_empty_or_foreign_source_is_refused(source):
    with pytest.raises(SettingsError, match=r"source of pool 'p' is .*; expected .*: name a file, a glob or a folder"):
        PoolSettings(name="p", source=source)


def test_a_misspelt_choice_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"shape of pool 'p' is 'share_gpt'; expected one of alpaca, auto, messages.*did you mean 'sharegpt'\?"):
        PoolSettings(name="p", source="x", shape="share_gpt")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"format of pool 'p' is 'json_lines'; expected one of auto, json, jsonl, parquet"):
        PoolSettings(name="p", source="x", format="json_lines")  # type: ignore[arg-type]


@pytest.mark.parametrize(("setting", "value"), [("license", " "), ("license", 4), ("sample_seed", 1.5), ("sample_seed", True)])
def test_licence_and_seed_are_checked_too(setting, value):
    with pytest.raises(SettingsError, match=f"{setting} of pool 'p' is {value!r}; expected"):
        PoolSettings(name="p", source="x", **{setting: value})
