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
    settings = MixtureSettings("m2", 5, tasks=("gsm8k", "bbh"), on_taken="next_best", pools=("flan",), required_sources=("cot",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.budget = 6
    assert MixtureSettings("r", 5, method="random", balanced=False, seed=-3).seed == -3


def test_every_setting_counts_in_the_fingerprint() -> None:
    base = MixtureSettings("a", 5)
    changes = [
        {"name": "b"}, {"budget": 6}, {"method": "random"}, {"selector": "global_top"}, {"tasks": ("t",)}, {"on_taken": "next_best"},
        {"pools": ("p",)}, {"required_sources": ("s",)},
        {"allow_short": True},
        {"method": "random", "balanced": False}, {"method": "random", "seed": 1},
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"method": "random", "selector": "mean_max"},
            "selector is 'mean_max', which has no effect with method 'random'; it belongs to method 'rds': leave selector out",
        ),
        (
            {"method": "random", "tasks": ("gsm8k", "bbh")},
            "tasks is gsm8k, bbh, which has no effect with method 'random'; it belongs to method 'rds': leave tasks out",
        ),
        (
            {"method": "random", "on_taken": "next_best"},
            "on_taken is 'next_best', which has no effect with method 'random'; it belongs to selector 'round_robin' of method 'rds': leave on_taken out",
        ),
        (
            {"selector": "mean_max", "on_taken": "next_best"},
            "on_taken is 'next_best', which has no effect with selector 'mean_max'; it belongs to selector 'round_robin' of method 'rds': leave on_taken out",
        ),
        ({"selector": "global_top", "on_taken": "next_best"}, "on_taken is 'next_best', which has no effect with selector 'global_top'"),
        ({"balanced": False}, "balanced is False, which has no effect with method 'rds'; it belongs to method 'random': leave balanced out"),
        ({"seed": 7}, "seed is 7, which has no effect with method 'rds'; it belongs to method 'random': leave seed out"),
    ],
)
def test_a_setting_without_effect_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=f"mixture 'm': {words}"):
        MixtureSettings("m", 5, **settings)


@pytest.mark.parametrize("choice", [{}, {"selector": "mean_max"}, {"selector": "global_top"}, {"method": "random"}])
def test_a_default_without_effect_and_what_always_counts_stand(choice: dict[str, object]) -> None:
    always = {"pools": ("p",), "required_sources": ("s",), "allow_short": True}
    named = {"on_taken": "skip_turn", "balanced": True, "seed": 0, "tasks": ()}
    assert MixtureSettings("m", 5, **choice, **always, **named) == MixtureSettings("m", 5, **choice, **always)
