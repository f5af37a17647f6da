"""The errors that rds_dagster raises on purpose; each message names the thing, the value, what was expected and the mend.

    RdsError
    ├── SettingsError(ValueError)   a setting is wrong; raised before any work
    │   └── BudgetError             more examples asked for than can be supplied
    ├── InputError                  a pool or query file cannot be read as a whole (bad rows go to quarantine instead)
    ├── StateError                  stored state does not fit what is asked of it (fingerprints differ, a file is gone)
    ├── BusyError                   another process holds the project or the warehouse; trying again later helps
    └── MissingExtraError           an optional dependency is not installed

A broken invariant of our own is an ``assert``, never one of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RdsError(Exception):
    """Anything that a user can mend; the command line prints it without a traceback."""


class SettingsError(RdsError, ValueError):
    """A setting is wrong; nothing was done yet."""


class BudgetError(SettingsError):
    """A mixture asks for more examples than can be supplied."""


class InputError(RdsError):
    """A file of a pool or of a query set cannot be read as a whole; the last good state of that asset stays."""


class StateError(RdsError):
    """What is stored does not fit what is asked: fingerprints differ, a file is gone, rows do not add up."""


class BusyError(RdsError):
    """Another process holds a lock; trying again later helps."""


class MissingExtraError(RdsError, ImportError):
    """An optional dependency is missing; the message says which extra brings it."""


def unknown_choice(what: str, value: object, choices: Iterable[str]) -> SettingsError:
    """The error for a value that is none of the known ones: lists them, and the nearest first if one is near."""
    known = sorted(choices)
    near = get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return SettingsError(f"{what} is {value!r}; expected one of {', '.join(known)}{hint}")
