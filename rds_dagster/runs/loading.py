"""A project folder -> its definitions, asset graph and component instances."""

from __future__ import annotations

import gc
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.repository_definition import RepositoryDefinition
from dagster.components.core.component_tree import ComponentTreeException
from pydantic import ValidationError
from yaml import YAMLError

from rds_dagster.components import Corpus, Mixture, Pool, Task
from rds_dagster.components.siblings import mixture_names, pool_names, task_names
from rds_dagster.errors import RdsError, SettingsError
from rds_dagster.runs.instance import prepare_instance
from rds_dagster.storage.layout import Layout


@dataclass(frozen=True)
class LoadedProject:
    """A project as its YAML says it is now; pools in the corpus's order."""

    folder: Path
    layout: Layout
    repository: RepositoryDefinition
    graph: AssetGraph
    pools: tuple[Pool, ...]
    tasks: tuple[Task, ...]
    mixtures: tuple[Mixture, ...]
    corpus: Corpus


def load_project(folder: Path) -> LoadedProject:
    """Load a project's definitions, on its own Dagster instance; raises SettingsError in the words of the component that refuses."""
    os.environ["RDS_PROJECT"] = str(folder)
    layout = Layout.of_project(folder)
    prepare_instance(layout)
    from rds_dagster import definitions

    with collector_paused(), warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # any asset check makes dagster warn of its own parameter
        try:
            loaded = definitions.defs()
            repository = loaded.get_repository_def()
            graph = repository.asset_graph
        except Exception as error:
            if words := _in_words(error):
                raise words from error
            raise
    tree = loaded.component_tree
    assert tree is not None, "definitions come from a component tree"
    context = tree.load_context
    pools = {pool.name: pool for pool in tree.get_all_components(of_type=Pool)}
    tasks = {task.name: task for task in tree.get_all_components(of_type=Task)}
    mixtures = {mixture.name: mixture for mixture in tree.get_all_components(of_type=Mixture)}
    (corpus,) = tree.get_all_components(of_type=Corpus)
    return LoadedProject(
        folder,
        layout,
        repository,
        graph,
        tuple(pools[name] for name in pool_names(context)),
        tuple(tasks[name] for name in task_names(context)),
        tuple(mixtures[name] for name in mixture_names(context)),
        corpus,
    )


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without Python's search for unreachable cycles, while a project's definitions and records are built: nearly all of it stays."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _in_words(error: Exception) -> RdsError | None:
    """The project's own error behind what dagster wrapped around it, or a SettingsError that says what is wrong with the YAML; None for a bug."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, RdsError):
            return link
        if isinstance(link, ValidationError):
            return SettingsError(f"the definitions under assets/ do not load: {_place(error)}{'; '.join(_slips(link))}. Mend the YAML")
        if isinstance(link, (YAMLError, dg.DagsterError, ValueError)):
            return SettingsError(f"the definitions under assets/ do not load: {' '.join(str(link).split())}")
    return None


def _place(error: Exception) -> str:
    """The first line of what dagster says of a component, without its drawing of the folder."""
    return f"{str(error).splitlines()[0]} " if isinstance(error, ComponentTreeException) else ""


def _slips(error: ValidationError) -> list[str]:
    found = []
    for slip in error.errors(include_url=False):
        setting = re.sub(r"\.\w*Model(?=\.)", "", ".".join(str(part) for part in slip["loc"]))  # the class that resolves a nested setting
        if slip["type"] == "string_type" and ".str" in setting:
            continue  # the other reading of a nested setting: a template
        said = {"extra_forbidden": "there is no such setting", "missing": "is missing"}.get(slip["type"], f"{slip['msg']}, but it is {slip['input']!r}")
        found.append(f"{setting}: {said}")
    return found
