"""What a pool is: where its files lie, how to read them, how much of it to take. Checked before any work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from rds_dagster.errors import SettingsError, unknown_choice

Shape = Literal["messages", "sharegpt", "alpaca", "prompt_response"]
Format = Literal["jsonl", "json", "parquet"]

RESERVED_NAMES = ("all",)  # `clean.all` and its like stand for every instance in SQL models
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_name(what: str, name: object) -> None:
    """Raise SettingsError unless ``name`` may be part of an asset key and of a table's name; ``what`` says whose name it is ("pool")."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(
            f"the name of a {what} is {name!r}; expected lower-case letters, digits and underscores, a letter first, such as {_mended(name)!r}: rename it"
        )
    if name in RESERVED_NAMES:
        raise SettingsError(f"the name of a {what} is {name!r}, which stands for all instances in SQL models; rename it, for example to {name + '_' + what!r}")


@dataclass(frozen=True)
class PoolSettings:
    """One pool. ``source`` is a file, glob or folder (local or fsspec), or several; ``sample`` a number of examples or a share in (0, 1].

    Which examples a sample takes is decided by a hash of their ids keyed by ``sample_seed``. Raises SettingsError for any wrong value.
    """

    name: str
    source: str | tuple[str, ...]
    shape: Literal["auto"] | Shape = "auto"
    format: Literal["auto"] | Format = "auto"
    license: str = "unknown"
    sample: int | float | None = None
    sample_seed: int = 0

    def __post_init__(self) -> None:
        check_name("pool", self.name)
        self._check_source()
        for setting, value, kinds in (("shape", self.shape, Shape), ("format", self.format, Format)):
            choices = ("auto", *get_args(kinds))
            if value not in choices:
                raise unknown_choice(f"{setting} of pool {self.name!r}", value, choices)
        if not isinstance(self.license, str) or not self.license.strip():
            raise self._wrong("license", self.license, "a licence's name", "write it down, such as 'CC BY 4.0', or leave it out for 'unknown'")
        self._check_sample()

    def _check_source(self) -> None:
        mend = "name a file, a glob or a folder, such as data/*.jsonl or s3://bucket/folder"
        if not isinstance(self.source, (str, tuple)):
            raise self._wrong("source", self.source, "text or a tuple of texts", mend)
        sources = (self.source,) if isinstance(self.source, str) else self.source
        if not sources or not all(isinstance(source, str) and source.strip() for source in sources):
            raise self._wrong("source", self.source, "at least one address, none of them empty", mend)

    def _check_sample(self) -> None:
        expected = "a whole number of examples above 0, or a share above 0 and at most 1.0"
        mend = "write 5000 for five thousand examples, 0.1 for a tenth, or leave it out to take all"
        if isinstance(self.sample, bool) or not isinstance(self.sample, (int, float, type(None))):
            raise self._wrong("sample", self.sample, expected, mend)
        if isinstance(self.sample, int) and self.sample <= 0:
            raise self._wrong("sample", self.sample, expected, mend)
        if isinstance(self.sample, float) and not 0 < self.sample <= 1:
            raise self._wrong("sample", self.sample, expected, mend)
        if isinstance(self.sample_seed, bool) or not isinstance(self.sample_seed, int):
            raise self._wrong("sample_seed", self.sample_seed, "a whole number", "write one, such as 0")

    def _wrong(self, setting: str, value: object, expected: str, mend: str) -> SettingsError:
        return SettingsError(f"{setting} of pool {self.name!r} is {value!r}; expected {expected}: {mend}")


def _mended(name: object) -> str:
    kept = re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")
    return kept if _NAME.fullmatch(kept) else f"p_{kept}".rstrip("_")
