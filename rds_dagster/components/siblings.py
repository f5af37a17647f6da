"""What one component instance needs to know of the others: the corpus, and the names of pools, tasks and mixtures in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from rds_dagster.errors import SettingsError

if TYPE_CHECKING:
    from rds_dagster.components.corpus import Corpus
    from rds_dagster.components.pool import Pool
    from rds_dagster.components.task import Task


def corpus_of(context: dg.ComponentLoadContext) -> Corpus:
    """The project's one corpus."""
    from rds_dagster.components.corpus import Corpus

    found = context.component_tree.get_all_components(of_type=Corpus)
    if len(found) != 1:
        raise SettingsError(f"the project has {len(found)} components of type rds_dagster.components.Corpus; expected exactly one, in assets/corpus/defs.yaml")
    return found[0]


def pools_in_order(context: dg.ComponentLoadContext) -> list[Pool]:
    """All pools, in the corpus's order; those that it does not name come last, by name."""
    from rds_dagster.components.pool import Pool

    found = {pool.name: pool for pool in context.component_tree.get_all_components(of_type=Pool)}
    return [found[name] for name in pool_names(context)]


def pool_names(context: dg.ComponentLoadContext) -> list[str]:
    """The names of all pools, in the same order."""
    from rds_dagster.components.pool import Pool

    return _in_order("pool", [pool.name for pool in context.component_tree.get_all_components(of_type=Pool)], corpus_of(context).pools)


def task_names(context: dg.ComponentLoadContext) -> list[str]:
    """All tasks, by name."""
    from rds_dagster.components.task import Task

    return _in_order("task", [task.name for task in context.component_tree.get_all_components(of_type=Task)], [])


def tasks_in_order(context: dg.ComponentLoadContext) -> list[Task]:
    """All tasks, by name."""
    from rds_dagster.components.task import Task

    found = {task.name: task for task in context.component_tree.get_all_components(of_type=Task)}
    return [found[name] for name in task_names(context)]


def mixture_names(context: dg.ComponentLoadContext) -> list[str]:
    """All mixtures, by name."""
    from rds_dagster.components.mixture import Mixture

    return _in_order("mixture", [mixture.name for mixture in context.component_tree.get_all_components(of_type=Mixture)], [])


def need_known(what: str, setting: str, names: list[str], known: list[str]) -> None:
    """Raise SettingsError if a setting names an instance that does not exist."""
    for name in names:
        if name not in known:
            raise SettingsError(
                f"{setting} names {what} {name!r}, which does not exist (known: {', '.join(known)}). Mend the name or add assets/{what}s/{name}/defs.yaml"
            )


def _in_order(what: str, names: list[str], first: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"{what} {twice[0]!r} is defined {names.count(twice[0])} times; give each {what} under assets/{what}s a name of its own")
    need_known(what, f"the order of {what}s in the corpus", first, sorted(names))
    return [*first, *sorted(set(names) - set(first))]
