"""Mixture settings are checked when they are made, in words that say the mend."""

import dataclasses

import pytest

from rds_dagster.errors import SettingsError
from rds_dagster.fingerprint import fingerprint
from rds_dagster.mixtures.settings import MixtureSettings


def test_the_defaults_are_the_papers() -> None:
    settings = MixtureSettings("math_10k", 10_000)
    assert (settings.method, settings.selector, settings.on_taken, settings.tasks) == ("rds", "round_robin", "skip_turn", ())


def test_full_settings_stand_and_are_frozen() -> None:
    settings = MixtureSettings("m2", 5, selector="mean_max", tasks=("gsm8k", "bbh"), on_taken="next_best", pools=("flan",), required_sources=("cot",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.budget = 6
    assert MixtureSettings("r", 5, method="random", balanced=False, seed=-3).seed == -3


def test_every_setting_counts_in_the_fingerprint() -> None:
    base = MixtureSettings("a", 5)
    changes = [
        {"name": "b"}, {"budget": 6}, {"method": "random"}, {"selector": "global_top"}, {"tasks": ("t",)}, {"on_taken": "next_best"}, {"balanced": False},
        {"seed": 1}, {"pools": ("p",)}, {"required_sources": ("s",)}, {"allow_short": True},
    ]  # fmt: skip
    assert {name for change in changes for name in change} == {field.name for field in dataclasses.fields(base)}
    assert len({fingerprint(base), *(fingerprint(dataclasses.replace(base, **change)) for change in changes)}) == len(changes) + 1


@pytest.mark.parametrize("name", ["", "Math", "1st", "a-b", "a b", "_a", "a\n", 7])
def test_a_bad_name_is_refused(name: object) -> None:
    with pytest.raises(SettingsError, match=r"mixture name is .*; expected small letters, digits and underscores, beginning with a letter"):
        MixtureSettings(name, 5)


def test_the_name_all_is_taken() -> None:
    with pytest.raises(SettingsError, match="mixture name is 'all', which stands for the union of all mixtures; choose another name"):
        MixtureSettings("all", 5)


@pytest.mark.parametrize("budget", [0, -5, True, 1.5, "10", None])
def test_a_bad_budget_is_refused(budget: object) -> None:
    with pytest.raises(SettingsError, match=r"mixture 'm': budget is .*; expected a whole number of examples, at least 1"):
        MixtureSettings("m", budget)


@pytest.mark.parametrize("seed", [True, 0.5, "1"])
def test_a_bad_seed_is_refused(seed: object) -> None:
    with pytest.raises(SettingsError, match=r"mixture 'm': seed is .*; expected a whole number"):
        MixtureSettings("m", 5, method="random", seed=seed)


@pytest.mark.parametrize("field", ["balanced", "allow_short"])
def test_a_switch_is_true_or_false(field: str) -> None:
    with pytest.raises(SettingsError, match=f"mixture 'm': {field} is 'yes'; expected true or false"):
        MixtureSettings("m", 5, **{field: "yes"})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("method", "rdss", r"mixture 'm': method is 'rdss'; expected one of random, rds; did you mean 'rds'\?"),
        ("selector", "round-robin", r"mixture 'm': selector is 'round-robin'; expected one of global_top, mean_max, round_robin; did you mean 'round_robin'\?"),
        ("on_taken", "nextbest", r"mixture 'm': on_taken is 'nextbest'; expected one of next_best, skip_turn; did you mean 'next_best'\?"),
    ],
)
def test_an_unknown_choice_lists_the_known_ones(field: str, value: object, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        MixtureSettings("m", 5, **{field: value})


@pytest.mark.parametrize("field", ["tasks", "pools", "required_sources"])
def test_a_list_holds_names_each_once(field: str) -> None:
    with pytest.raises(SettingsError, match=f"mixture 'm': {field} names messages more than once; name each once"):
        MixtureSettings("m", 5, **{field: ("messages", "parquet", "messages")})
    for value in ("messages", ["messages"], ("",), (1,)):
        with pytest.raises(SettingsError, match=rf"mixture 'm': {field} is .*; expected a list of names"):
            MixtureSettings("m", 5, **{field: value})


def test_settings_that_random_would_ignore_are_refused() -> None:
    with pytest.raises(SettingsError, match="mixture 'm': selector 'mean_max' has no effect with method 'random'; leave selector out or set method: rds"):
        MixtureSettings("m", 5, method="random", selector="mean_max")
    with pytest.raises(SettingsError, match="mixture 'm': tasks gsm8k, bbh have no effect with method 'random'; leave tasks out or set method: rds"):
        MixtureSettings("m", 5, method="random", tasks=("gsm8k", "bbh"))
