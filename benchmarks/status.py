"""What `rds status` costs on a project of many small pools: as a whole process, on a fresh state, after growth, and before the first run.

    python benchmarks/status.py --work DIR [--pools 50 --tasks 10 --mixtures 20] [--times 5]

``--work`` gets the project with its state (removed first). Pools hold eight conversations each, so that what is measured is what an asset costs, not what
a row does. Printed, one line each, `what: seconds`, as the median with the least and the most, and the seconds of CPU: what every command pays before it
works, `rds status` in three states of the project (each answer is held to what it has to name), a cold `rds run` with its seconds per asset, and one with
nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.instances import write_instance

RDS = str(Path(sys.executable).with_name("rds"))
POOL_ROWS = 8
QUERIES = 2
BUDGET = 20
SUBJECTS = ("sums", "rivers", "verbs", "stars", "bread")

NOTHING = "pass"
IMPORTS = "import rds_dagster.runs.summary"
EXPECTATIONS = "import great_expectations"
DEFINITIONS = "from pathlib import Path; import sys; from rds_dagster.runs.loading import load_project; load_project(Path(sys.argv[1]))"


@dataclass(frozen=True)
class Size:
    """How many instances the project has."""

    pools: int
    tasks: int
    mixtures: int

    @property
    def assets(self) -> int:
        """Of Pool 3, of Task 2, of Mixture 3; of the corpus one encoder, unique and embeddings for each pool, scores for each task; 3 SQL models."""
        return 5 * self.pools + 3 * self.tasks + 3 * self.mixtures + 1 + 3


def make_project(folder: Path, size: Size) -> None:
    """Pools of POOL_ROWS conversations in a folder each, tasks of QUERIES queries, mixtures of every kind in turn; the default encoder."""
    subprocess.run([RDS, "init", str(folder)], check=True, capture_output=True)
    pools = [f"pool_{n:02}" for n in range(size.pools)]
    tasks = [f"task_{n:02}" for n in range(size.tasks)]
    for n, pool in enumerate(pools):
        write_rows(folder / "data" / pool / "part-0.jsonl", n * POOL_ROWS, POOL_ROWS)
        write_instance(folder, f"pools/{pool}", "Pool", {"name": pool, "source": f"data/{pool}"})
    for n, task in enumerate(tasks):
        write_rows(folder / "data" / f"{task}.jsonl", 1_000_000 + n * QUERIES, QUERIES)
        write_instance(folder, f"tasks/{task}", "Task", {"name": task, "queries": f"data/{task}.jsonl"})
    half = pools[: (len(pools) + 1) // 2]
    for n in range(size.mixtures):
        kinds: tuple[dict[str, object], ...] = ({}, {"tasks": [tasks[n % len(tasks)]]}, {"pools": half}, {"method": "random"})
        attributes = {"name": f"mix_{n:02}", "budget": min(BUDGET, POOL_ROWS * len(half)), **kinds[n % len(kinds)]}
        write_instance(folder, f"mixtures/mix_{n:02}", "Mixture", attributes)
    write_instance(folder, "corpus", "Corpus", {"pools": pools, "encoder": {"dtype": "float32"}})


def write_rows(path: Path, first: int, rows: int) -> None:
    """A JSON Lines file of conversations, each of which exists once: ``first`` is the number of its first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for n in range(first, first + rows):
            subject = SUBJECTS[n % len(SUBJECTS)]
            turns = [("user", f"Tell me fact number {n} about {subject}."), ("assistant", f"Of all {subject}, number {n} has {n % 7 + 2} of them beside it.")]
            file.write(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n")


def status(folder: Path) -> dict[str, list[str]]:
    """What `rds status` calls stale: key -> reasons."""
    done = subprocess.run([RDS, "--project", str(folder), "status", "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"rds status failed:\n{done.stderr[-4000:]}")
    stale: dict[str, list[str]] = json.loads(done.stdout)["stale"]
    return stale


def run(folder: Path) -> None:
    """`rds run`; raises RuntimeError with what it said if it fails."""
    done = subprocess.run([RDS, "--project", str(folder), "run"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"rds run failed:\n{done.stderr[-4000:]}")


def python(folder: Path, code: str) -> None:
    """Run some code in a Python of its own, with the project folder as its argument."""
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, env={**os.environ, "RDS_PROJECT": str(folder)})


def steps_s(folder: Path) -> tuple[int, float]:
    """How many steps the project's runs had, and the seconds within them, as Dagster recorded them: the rest is Dagster's own."""
    from rds_dagster.runs.instance import open_instance
    from rds_dagster.storage.layout import Layout

    with open_instance(Layout.of_project(folder)) as instance:
        steps = [step for run in instance.get_runs() for step in instance.get_run_step_stats(run.run_id)]
    return len(steps), sum(step.end_time - step.start_time for step in steps if step.start_time and step.end_time)


def seconds(what: str, times: int, work: Callable[[], object]) -> float:
    """Do some work several times, in processes of its own, and print the median; returns it. Seconds of CPU are what compares on a busy machine."""
    took, cpu = [], []
    for _ in range(times):
        began, cpu_began = time.perf_counter(), _cpu_s()
        work()
        took.append(time.perf_counter() - began)
        cpu.append(_cpu_s() - cpu_began)
    spread = f"{min(took):.2f} to {max(took):.2f}, {times} times; " if times > 1 else ""
    print(f"{what}: {median(took):.2f} s ({spread}CPU {median(cpu):.2f} s)", flush=True)
    return median(took)


def status_seconds(what: str, times: int, folder: Path, expected: Sequence[str]) -> float:
    """The same for `rds status`, which has to call stale what is ``expected`` and nothing else; raises RuntimeError if it does not."""

    def work() -> None:
        found = sorted(status(folder))
        if found != sorted(expected):
            raise RuntimeError(f"{what}: rds status names {len(found)} assets as stale ({', '.join(found[:5])}, ..); expected {len(expected)}")

    return seconds(what, times, work)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the project and its state; what is in it is removed")
    parser.add_argument("--pools", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--mixtures", type=int, default=20)
    parser.add_argument("--times", type=int, default=5, help="how often each status is asked for")
    said = parser.parse_args()
    folder, size, times = said.work.resolve() / "project", Size(said.pools, said.tasks, said.mixtures), said.times
    shutil.rmtree(folder, ignore_errors=True)
    make_project(folder, size)
    every = sorted(status(folder))  # compiles the package's modules, too
    if len(every) != size.assets:
        raise RuntimeError(f"the project has {len(every)} assets; expected {size.assets}")
    print(f"{size.pools} pools, {size.tasks} tasks, {size.mixtures} mixtures: {size.assets} assets", flush=True)
    seconds("start-up: Python alone", times, lambda: python(folder, NOTHING))
    seconds("start-up: Python and the imports of rds status (Dagster among them)", times, lambda: python(folder, IMPORTS))
    seconds("start-up: Python and Great Expectations, which only a run imports", times, lambda: python(folder, EXPECTATIONS))
    seconds("start-up: Python, the imports and the definitions", times, lambda: python(folder, DEFINITIONS))
    status_seconds("rds status before the first run", times, folder, every)
    cold_s = seconds("rds run, cold", 1, lambda: run(folder))
    steps, within_s = steps_s(folder)
    print(f"rds run, cold, per asset: {cold_s / size.assets:.3f} s; within its {steps} steps (checks among them): {within_s:.1f} s", flush=True)
    status_seconds("rds status with nothing stale", times, folder, [])
    seconds("rds run with nothing to do", times, lambda: run(folder))
    write_rows(folder / "data" / "pool_00" / "part-1.jsonl", 2_000_000, 2)
    status_seconds("rds status after a file was added to a pool", times, folder, ["raw/pool_00"])


if __name__ == "__main__":
    main()
