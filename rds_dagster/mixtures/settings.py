"""What a mixture asks for; checked when it is made, before any data is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from rds_dagster.errors import SettingsError, unknown_choice
from rds_dagster.mixtures.selectors import OnTaken

Method = Literal["rds", "random"]
Selector = Literal["round_robin", "mean_max", "global_top"]


@dataclass(frozen=True)
class MixtureSettings:
    """One mixture: how many examples, chosen how, from which pools, for which tasks; raises SettingsError.

    ``budget`` counts examples. ``selector``, ``tasks`` (none named: all) and ``on_taken`` are for method rds; ``balanced`` and ``seed`` for
    method random. ``pools``: only their examples may be picked (none named: all). ``required_sources``: a check fails if one of them
    gives no example. ``allow_short``: take fewer than the budget where it cannot be met, instead of failing.
    """

    name: str
    budget: int
    method: Method = "rds"
    selector: Selector = "round_robin"
    tasks: tuple[str, ...] = ()
    on_taken: OnTaken = "skip_turn"
    balanced: bool = True
    seed: int = 0
    pools: tuple[str, ...] = ()
    required_sources: tuple[str, ...] = ()
    allow_short: bool = False

    def __post_init__(self) -> None:
        self._check_name()
        self._check_numbers()
        self._check_choices()
        self._check_lists()
        self._check_random_ignores_nothing()

    def _check_name(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise SettingsError(f"mixture name is {self.name!r}; expected small letters, digits and underscores, beginning with a letter")
        if self.name == "all":
            raise SettingsError("mixture name is 'all', which stands for the union of all mixtures; choose another name")

    def _check_numbers(self) -> None:
        if type(self.budget) is not int or self.budget < 1:  # not isinstance: True is an int too
            raise SettingsError(f"mixture {self.name!r}: budget is {self.budget!r}; expected a whole number of examples, at least 1")
        if type(self.seed) is not int:
            raise SettingsError(f"mixture {self.name!r}: seed is {self.seed!r}; expected a whole number")
        for field, switch in (("balanced", self.balanced), ("allow_short", self.allow_short)):
            if not isinstance(switch, bool):
                raise SettingsError(f"mixture {self.name!r}: {field} is {switch!r}; expected true or false")

    def _check_choices(self) -> None:
        fields = (("method", self.method, Method), ("selector", self.selector, Selector), ("on_taken", self.on_taken, OnTaken))
        for field, value, choices in fields:
            if value not in get_args(choices):
                raise unknown_choice(f"mixture {self.name!r}: {field}", value, get_args(choices))

    def _check_lists(self) -> None:
        for field, names in (("tasks", self.tasks), ("pools", self.pools), ("required_sources", self.required_sources)):
            if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
                raise SettingsError(f"mixture {self.name!r}: {field} is {names!r}; expected a list of names")
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise SettingsError(f"mixture {self.name!r}: {field} names {', '.join(twice)} more than once; name each once")

    def _check_random_ignores_nothing(self) -> None:
        if self.method != "random":
            return
        if self.selector != "round_robin":
            raise SettingsError(f"mixture {self.name!r}: selector {self.selector!r} has no effect with method 'random'; leave selector out or set method: rds")
        if self.tasks:
            raise SettingsError(f"mixture {self.name!r}: tasks {', '.join(self.tasks)} have no effect with method 'random'; leave tasks out or set method: rds")
