"""What counts as a valid conversation."""

from __future__ import annotations

from dataclasses import dataclass

from rds_dagster.errors import SettingsError


@dataclass(frozen=True)
class CleaningSettings:
    """``max_chars``: a conversation whose contents are longer in all is dropped as too long (default one million characters)."""

    max_chars: int = 1_000_000

    def __post_init__(self) -> None:
        if isinstance(self.max_chars, bool) or self.max_chars < 1:
            raise SettingsError(f"cleaning.max_chars is {self.max_chars}; expected a whole number of characters of 1 or more")
