"""What Dagster costs beside the work: seconds of each stage's steps, of the core functions within them, and of what lies between and before the steps.

    python -m benchmarks.overhead [--repeats 5] [--json FILE]

The demo's project is made from nothing by the walk of `rds run`, each time in a process and on a state of its own. Each core function that a component
calls is timed where it is called, so both sides come from the same run on the same inputs. Printed, medians with the spread:

- start-up: Python and the imports of a run, then those of PyTorch, LanceDB, Great Expectations and the like, the definitions, the instance;
- a table: stage, steps, seconds of its steps, seconds of the core within them, the difference (events, metadata and previews, data versions);
- the walk as a whole, what of it lies within steps, and the core's share.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from statistics import median
from types import GeneratorType

from benchmarks.figures import Figures, shown

RDS = str(Path(sys.executable).with_name("rds"))
CORE = {
    "raw": ["rds_dagster.pools.look.record_pool"],
    "clean": ["rds_dagster.cleaning.clean.clean_pool"],
    "unique": ["rds_dagster.cleaning.unique.unify_pools"],
    "encoders": ["rds_dagster.embeddings.register.register_encoder"],
    "queries": ["rds_dagster.embeddings.embed_queries.embed_queries"],
    "test_items": ["rds_dagster.embeddings.embed_queries.record_test_items"],
    "embeddings": ["rds_dagster.embeddings.register.current_encoder", "rds_dagster.embeddings.embed_pools.embed_pools"],
    "scores": ["rds_dagster.scores.score_tasks.score_tasks", "rds_dagster.cleaning.unique.owned_ids", "rds_dagster.storage.warehouse.Warehouse.land"],
    "mixtures": ["rds_dagster.mixtures.make_mixture.make_mixture", "rds_dagster.components.mixture.diff_to_previous"],
    "exports": ["rds_dagster.exports.export_mixture.export_mixture"],
    "reports": ["rds_dagster.exports.report_mixture.report_mixture"],
    "SQL models": ["rds_dagster.components.sql_models.materialize_model"],
    "checks": ["rds_dagster.components.checks.run_suite"],
}
"""Stage -> the core functions that its components call, where they look them up."""

LIBRARIES = ("torch", "transformers", "lancedb", "great_expectations", "pandas", "matplotlib.pyplot", "sqlglot")


@dataclass
class Calls:
    """The calls of core functions as they came: stage, beginning and end by the wall clock; one within another is not counted again."""

    made: list[tuple[str, float, float]] = field(default_factory=list)
    depth: int = 0

    def watch(self, stage: str, path: str) -> None:
        """Time every call of the function at ``path`` from now on."""
        *owner, name = path.split(".")
        place = _resolve(owner)
        original = getattr(place, name)
        setattr(place, name, self._timed(stage, original))

    def _timed(self, stage: str, original: Callable[..., object]) -> Callable[..., object]:
        @wraps(original)
        def timed(*args: object, **kwargs: object) -> object:
            self.depth += 1
            began = time.time()
            try:
                result = original(*args, **kwargs)
                return iter(list(result)) if isinstance(result, GeneratorType) else result
            finally:
                self.depth -= 1
                if not self.depth:
                    self.made.append((stage, began, time.time()))

        return timed


@dataclass(frozen=True)
class Walked:
    """One run: seconds of start-up by part, of the walk, and stage -> [steps, their seconds, the core's seconds]."""

    start_up: dict[str, float]
    wall_s: float
    stages: dict[str, list[float]]

    def total(self, column: int) -> float:
        """Of all stages: 0 steps, 1 their seconds, 2 the core's."""
        return sum(figures[column] for figures in self.stages.values())


def walk_once(folder: Path) -> Walked:
    """Make everything in this process."""
    from rds_dagster.runs.instance import open_instance, project_lock
    from rds_dagster.runs.loading import load_project
    from rds_dagster.runs.walk import walk

    start_up = {"Python and the imports of `rds run`, Dagster among them": time.time() - _process_began()}
    began = time.time()
    for library in LIBRARIES:
        importlib.import_module(library)
    start_up["imports of PyTorch, LanceDB, Great Expectations, .."] = time.time() - began
    calls = Calls()
    for stage, paths in CORE.items():
        for path in paths:
            calls.watch(stage, path)
    began = time.time()
    project = load_project(folder)
    start_up["definitions"] = time.time() - began
    began = time.time()
    with project_lock(project.layout, 10.0), open_instance(project.layout) as instance:
        start_up["instance"] = time.time() - began
        began = time.time()
        result = walk(project, instance, None, lambda _: None)
        wall_s = time.time() - began
        if not result.is_success:
            raise RuntimeError(f"the walk failed: {result.failed or result.blocked}")
        steps = [step for run in instance.get_runs() for step in instance.get_run_step_stats(run.run_id)]
        spans = [(step.step_key, step.start_time, step.end_time) for step in steps if step.start_time and step.end_time]
    return Walked(start_up, wall_s, _by_stage(spans, calls.made))


def _by_stage(spans: list[tuple[str, float, float]], calls: list[tuple[str, float, float]]) -> dict[str, list[float]]:
    """Each step belongs to the stage whose core it called."""
    stages: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for key, began, ended in spans:
        within: defaultdict[str, float] = defaultdict(float)
        for stage, call_began, call_ended in calls:
            if began <= call_began and call_ended <= ended:
                within[stage] += call_ended - call_began
        if not within:
            raise RuntimeError(f"step {key} called none of the core functions; add what its stage calls to CORE")
        stage = max(within, key=lambda name: within[name])
        found = stages[stage]
        found[0] += 1
        found[1] += ended - began
        found[2] += sum(within.values())
    return dict(stages)


def _resolve(path: list[str]) -> object:
    """The module of a dotted path, or the class in a module."""
    if path[-1][0].isupper():
        return getattr(importlib.import_module(".".join(path[:-1])), path[-1])
    return importlib.import_module(".".join(path))


def _process_began() -> float:
    import psutil

    return float(psutil.Process().create_time())


def runs(repeats: int) -> Iterator[Walked]:
    """The demo from nothing, in a process of its own, several times."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        subprocess.run([RDS, "init", "--demo", str(folder)], check=True, capture_output=True)
        from rds_dagster.demo import write_demo

        write_demo(folder / "demo_data")
        for number in range(repeats + 1):
            env = {**os.environ, "RDS_HOME": str(Path(temporary) / f"state{number}"), "RDS_PROJECT": str(folder)}
            done = subprocess.run([sys.executable, "-m", "benchmarks.overhead", "--walk", str(folder)], capture_output=True, text=True, env=env)
            if done.returncode:
                raise RuntimeError(f"the walk failed:\n{done.stderr[-4000:]}")
            if number:  # the first one compiles modules and fills the page cache
                yield Walked(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--walk", type=Path, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.walk:
        print(json.dumps(asdict(walk_once(said.walk))))
        return
    figures, found = Figures("overhead"), list(runs(said.repeats))
    report(figures, found)
    figures.write(said.json)


def report(figures: Figures, found: list[Walked]) -> None:
    """Print what the runs measured."""
    for part in found[0].start_up:
        figures.figure(f"start-up: {part}", [run.start_up[part] for run in found], "s")
    print("\n| stage | steps | step, s | core, s | overhead, s | overhead, ms a step |\n|---|---:|---:|---:|---:|---:|")
    for stage in (stage for stage in CORE if stage in found[0].stages):
        steps, step_s, core_s = (median(run.stages[stage][column] for run in found) for column in range(3))
        over_s = median(run.stages[stage][1] - run.stages[stage][2] for run in found)
        print(f"| {stage} | {steps:.0f} | {shown(step_s)} | {shown(core_s)} | {shown(over_s)} | {over_s / steps * 1000:.0f} |")
    print()
    wall, within, core = [run.wall_s for run in found], [run.total(1) for run in found], [run.total(2) for run in found]
    steps = found[0].total(0)
    figures.figure(f"the walk, {steps:.0f} steps", wall, "s")
    figures.figure("within its steps", within, "s")
    figures.figure("within the core functions", core, "s")
    figures.figure("overhead within a step", [(run.total(1) - run.total(2)) / steps * 1000 for run in found], "ms")
    figures.figure("between steps (staleness, runs, events), a step", [(run.wall_s - run.total(1)) / steps * 1000 for run in found], "ms")
    figures.ratio("the walk / the core functions alone", wall, core, "lower")


if __name__ == "__main__":
    main()
