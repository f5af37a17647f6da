"""What a mixture asks for; checked when it is made, before any data is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from rds_dagster.errors import SettingsError, unknown_choice
from rds_dagster.mixtures.selectors import OnTaken

Method = Literal["rds", "random"]
Selector = Literal["round_robin", "mean_max", "global_top"]

BELONGS: Mapping[str, tuple[Method, Selector | None]] = {
    "selector": ("rds", None),
    "tasks": ("rds", None),
    "on_taken": ("rds", "round_robin"),
    "balanced": ("random", None),
    "seed": ("random", None),
}
"""Setting -> the method, and the selector (None: any), with which alone it has an effect; settings not named here always have one."""


@dataclass(frozen=True)
class MixtureSettings:
    """One mixture: how many examples, chosen how, from which pools, for which tasks; raises SettingsError.

    ``budget`` counts examples. ``selector`` and ``tasks`` (none named: all) are for method rds, ``on_taken`` for its selector round_robin;
    ``balanced`` and ``seed`` for method random. A setting that would have no effect must keep its default. ``pools``: only their examples
    may be picked (none named: all). ``required_sources``: a check fails if one of them gives no example. ``allow_short``: take fewer than
    the budget where it cannot be met, instead of failing.
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
        self._check_all_have_effect()

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

    def _check_all_have_effect(self) -> None:
        for field in fields(self):
            method, selector = BELONGS.get(field.name, (self.method, None))
            value = getattr(self, field.name)
            if value == field.default or (method == self.method and selector in (None, self.selector)):
                continue
            now = f"method {self.method!r}" if method != self.method else f"selector {self.selector!r}"
            owner = f"method {method!r}" if selector is None else f"selector {selector!r} of method {method!r}"
            shown = ", ".join(value) if isinstance(value, tuple) else repr(value)
            raise SettingsError(
                f"mixture {self.name!r}: {field.name} is {shown}, which has no effect with {now}; it belongs to {owner}: leave {field.name} out"
            )
