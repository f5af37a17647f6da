"""One target task: where its queries and its held-out test items lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rds_dagster.errors import SettingsError, unknown_choice
from rds_dagster.pools.settings import Shape, check_name


@dataclass(frozen=True)
class TaskSettings:
    """``queries`` and ``test_items`` are sources as a pool's are (a file, glob, folder or address, relative to the project folder).

    ``limit``: take only the first so many queries. Test items are for decontamination and evaluation, never for selection.
    """

    name: str
    queries: str
    test_items: str | None = None
    shape: Literal["auto"] | Shape = "auto"
    limit: int | None = None

    def __post_init__(self) -> None:
        check_name("task", self.name)
        if not self.queries.strip():
            raise SettingsError(f"task {self.name}: queries is empty; give the file that holds its queries")
        choices = ("auto", *get_args(Shape))
        if self.shape not in choices:
            raise unknown_choice(f"shape of task {self.name!r}", self.shape, choices)
        if self.limit is not None and (isinstance(self.limit, bool) or self.limit < 1):
            raise SettingsError(f"task {self.name}: limit is {self.limit}; expected a whole number of queries of 1 or more")
