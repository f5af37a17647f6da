"""How scores are made."""

from __future__ import annotations

from dataclasses import dataclass

from rds_dagster.errors import SettingsError

METHOD = "rds"  # representation similarity: RDS+ with weighted-mean pooling, plain RDS with last-token pooling


@dataclass(frozen=True)
class ScoreSettings:
    """``depth``: how many examples the top list of each query holds (default 256); single-task selection asks for deeper ones where it must."""

    depth: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or self.depth < 1:
            raise SettingsError(f"scores.depth is {self.depth}; expected a whole number of examples of 1 or more")
