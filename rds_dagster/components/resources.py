"""What assets and checks are handed: the project's folder and its stores. Merged once, in definitions.py; tests replace it.

A run holds the project from its start to its end, wherever it was started (`rds run`, the UI, the daemon), so that no two make the same thing at once.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg

from rds_dagster.errors import BusyError
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.locks import held
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.warehouse import Warehouse

RESOURCE = "project"  # the name under which ops ask for it
TELL_S = 30.0  # how often a run that waits for the project says for whom

_held_here: set[Path] = set()  # homes that this process holds: the runs of an `rds run` are executed under its lock


@contextmanager
def hold_project(layout: Layout, timeout_s: float) -> Iterator[None]:
    """Hold the project: one run at a time. Raises BusyError naming the holder after ``timeout_s`` seconds, also if it is this process."""
    with held(layout.locks / "project.lock", what=f"the project state {layout.home}", timeout_s=timeout_s):
        _held_here.add(layout.home)
        try:
            yield
        finally:
            _held_here.discard(layout.home)


class Project(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One project: ``folder`` holds assets/ and pyproject.toml, ``home`` its state (`.rds`); both absolute."""

    folder: str
    home: str

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Project, None, None]:
        """Hold the project as long as the run lasts; a run that has to wait says for whom, and can be canceled."""
        if self.layout.home in _held_here:
            yield self
            return
        log = context.log or logging.getLogger(__name__)
        with _held_after_waiting(self.layout, log):
            yield self

    @property
    def root(self) -> Path:
        """The project folder; relative sources of pools start here."""
        return Path(self.folder)

    @property
    def layout(self) -> Layout:
        """Every path of the state."""
        return Layout(Path(self.home))

    @property
    def tables(self) -> TableStore:
        """The Parquet tables."""
        return TableStore(self.layout)

    @property
    def warehouse(self) -> Warehouse:
        """The DuckDB warehouse."""
        return Warehouse(self.layout)


@contextmanager
def _held_after_waiting(layout: Layout, log: logging.Logger) -> Iterator[None]:
    with ExitStack() as stack:
        is_held = False
        while not is_held:
            try:
                with dg.raise_execution_interrupts():
                    stack.enter_context(hold_project(layout, TELL_S))
                is_held = True
            except BusyError as busy:
                log.info(f"This run waits: {busy}")
        yield
