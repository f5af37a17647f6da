"""A project folder -> its definitions, asset graph and component instances."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.repository_definition import RepositoryDefinition

from rds_dagster.components import Corpus, Mixture, Pool, Task
from rds_dagster.components.siblings import mixture_names, pool_names, task_names
from rds_dagster.errors import RdsError, SettingsError
from rds_dagster.storage.layout import Layout


@dataclass(frozen=True)
class LoadedProject:
    """A project as its YAML says it is now; pools in the corpus's order."""

    folder: Path
    layout: Layout
    repository: RepositoryDefinition
    pools: tuple[Pool, ...]
    tasks: tuple[Task, ...]
    mixtures: tuple[Mixture, ...]
    corpus: Corpus

    @property
    def graph(self) -> AssetGraph:
        """The asset graph."""
        return self.repository.asset_graph


def load_project(folder: Path) -> LoadedProject:
    """Load a project's definitions; raises SettingsError in the words of the component that refuses."""
    os.environ["RDS_PROJECT"] = str(folder)
    from rds_dagster import definitions

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # any asset check makes dagster warn of its own parameter
        try:
            loaded = definitions.defs()
            repository = loaded.get_repository_def()
        except Exception as error:
            raise _in_words(error) from error
    tree = loaded.component_tree
    assert tree is not None, "definitions come from a component tree"
    context = tree.load_context
    pools = {pool.name: pool for pool in tree.get_all_components(of_type=Pool)}
    tasks = {task.name: task for task in tree.get_all_components(of_type=Task)}
    mixtures = {mixture.name: mixture for mixture in tree.get_all_components(of_type=Mixture)}
    (corpus,) = tree.get_all_components(of_type=Corpus)
    return LoadedProject(
        folder,
        Layout.of_project(folder),
        repository,
        tuple(pools[name] for name in pool_names(context)),
        tuple(tasks[name] for name in task_names(context)),
        tuple(mixtures[name] for name in mixture_names(context)),
        corpus,
    )


def _in_words(error: Exception) -> Exception:
    """The project's own error behind what dagster wrapped around it; dagster's validation errors as SettingsError."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RdsError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (dg.DagsterError, ValueError)):
        return SettingsError(f"the definitions under assets/ do not load: {error}")
    return error
