"""What a refresh costs: a cold run on real pools, then one per cent more rows spread over two pools, then a run with nothing to do.

    python -m benchmarks.growth --data DIR --work DIR [--share 1.0] [--json FILE]

``--data`` holds ``pool/<source>.jsonl.zst`` and ``tasks/<task>.jsonl.zst``; ``--work`` gets a project with its state (a few GB; removed first). Each run
is `rds run` in a process of its own, as a user starts it. Printed: wall-clock of the three and their ratio, tokens embedded beside the tokens of the new
unique examples, seconds by stage (from Dagster's record of each step), and apart from them what every command pays before it works: starting Python,
importing Dagster and Great Expectations, loading the definitions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import zstandard

from benchmarks.figures import Figures
from benchmarks.instances import write_instance

POOLS = (
    "flan_cot", "dolly", "alpaca", "ei_code_example", "gpteacher_codegen", "gpteacher_roleplay", "gpteacher_toolformer", "sapt_long", "t0_50k", "ni_v1",
)  # fmt: skip
"""In the order in which they count: real pools without those that are copies of others, or in a script that the shipped encoder never saw."""

GROWING = ("alpaca", "dolly")
FIRST_FILE = "part-0.jsonl.zst"
LATER_FILE = "part-1.jsonl.zst"
GROWTH = 0.01  # of all records, half to each growing pool
TASKS = {"gsm8k": "gsm8k.paper8", "codex": "codex", "squad": "squad", "bbh": "bbh"}
MIXTURES: dict[str, dict[str, object]] = {
    "multi_10k": {"compare_with": "random_10k"},
    "code_2k": {"tasks": ["codex"], "on_taken": "next_best"},
    "random_10k": {"method": "random"},
}
BUDGETS = {"multi_10k": 10_000, "code_2k": 2_000, "random_10k": 10_000}
RDS = str(Path(sys.executable).with_name("rds"))


@dataclass(frozen=True)
class Ran:
    """One `rds run`: seconds by the clock, seconds of each stage's steps (all runs together), tokens embedded, Dagster runs."""

    wall_s: float
    stage_s: dict[str, float]
    tokens: int
    runs: int


def make_project(data: Path, folder: Path, share: float) -> dict[str, list[bytes]]:
    """A project of POOLS without the rows that come later; returns those, by pool. ``share``: of each pool, the first so much."""
    subprocess.run([RDS, "init", str(folder)], check=True, capture_output=True)
    lines = {pool: read_lines(data / "pool" / f"{pool}.jsonl.zst", share) for pool in POOLS}
    later_rows = round(sum(map(len, lines.values())) * GROWTH / len(GROWING))
    later = {pool: lines[pool][:: len(lines[pool]) // later_rows][:later_rows] for pool in GROWING}  # spread over the pool: its ends are not like the rest
    for pool in POOLS:
        gone = set(later.get(pool, ()))
        write_lines(folder / "data" / pool / FIRST_FILE, [line for line in lines[pool] if line not in gone])
        write_instance(folder, f"pools/{pool}", "Pool", {"name": pool, "source": f"data/{pool}"})
    for task, file in TASKS.items():
        write_instance(folder, f"tasks/{task}", "Task", {"name": task, "queries": str((data / "tasks" / f"{file}.jsonl.zst").resolve())})
    for mixture, settings in MIXTURES.items():
        write_instance(folder, f"mixtures/{mixture}", "Mixture", {"name": mixture, **settings, "budget": round(BUDGETS[mixture] * share)})
    write_instance(folder, "corpus", "Corpus", {"pools": list(POOLS), "encoder": {"dtype": "float32"}})
    return later


def write_lines(path: Path, lines: list[bytes]) -> None:
    """One zstd-compressed file of JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.ZstdCompressor().compress(b"".join(lines)))


def read_lines(path: Path, share: float = 1.0) -> list[bytes]:
    """The lines of a zstd-compressed file, the first ``share`` of them."""
    with path.open("rb") as stream, zstandard.ZstdDecompressor().stream_reader(stream) as plain:
        lines = plain.read().splitlines(keepends=True)
    return lines[: round(len(lines) * share)]


def run(folder: Path) -> Ran:
    """`rds run` on the project; raises RuntimeError with what it said if it fails."""
    before = _run_ids(folder)
    began = time.perf_counter()
    done = subprocess.run([RDS, "--project", str(folder), "run"], capture_output=True, text=True)
    wall_s = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"rds run failed:\n{done.stderr[-4000:]}")
    new = _run_ids(folder) - before
    stage_s, tokens = _recorded(folder, new)
    return Ran(wall_s, stage_s, tokens, len(new))


def start_up_s(folder: Path) -> float:
    """Seconds of `rds status`'s start without its work: the imports and the loading of the definitions."""
    code = "from pathlib import Path; import sys, great_expectations; from rds_dagster.runs.loading import load_project; load_project(Path(sys.argv[1]))"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, env={**os.environ, "RDS_PROJECT": str(folder)})
    return time.perf_counter() - began


def libraries_s() -> float:
    """Seconds of importing what a run that embeds needs besides: PyTorch, transformers' Llama, LanceDB."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, lancedb; from transformers import AutoTokenizer, LlamaModel"], check=True, capture_output=True)
    return time.perf_counter() - began


def new_tokens(folder: Path, later: dict[str, list[bytes]]) -> tuple[int, int]:
    """Examples among the later rows that cleaning keeps and that no earlier row holds, and their tokens, counted apart from the project.

    Which rows cleaning threw out is read from the quarantine; `empty_answer` and the like are rare here, and counted nowhere else.
    """
    from transformers import AutoTokenizer

    from rds_dagster.embeddings.identity import TINY_FOLDER
    from rds_dagster.pools.render import render
    from rds_dagster.schema import duplicate_key
    from rds_dagster.storage.layout import Layout
    from rds_dagster.storage.tables import TableStore

    store = TableStore(Layout.of_project(folder))
    known: set[bytes] = set()
    for pool in POOLS:
        for line in read_lines(folder / "data" / pool / FIRST_FILE):
            known.add(duplicate_key(json.loads(line)["messages"]))
    fresh = {}
    for pool, rows in later.items():
        out = {(row["file"], row["line"]) for row in store.read(store.need(f"clean/{pool}"), "quarantine").to_pylist()}
        for number, line in enumerate(rows, 1):
            messages = json.loads(line)["messages"]
            key = duplicate_key(messages)
            if key not in known and (LATER_FILE, number) not in out:
                fresh[key] = render(messages, what="full", eos="<|eos|>")
    tokenizer = AutoTokenizer.from_pretrained(TINY_FOLDER)
    return len(fresh), sum(min(len(ids), 1024) for ids in tokenizer(list(fresh.values()))["input_ids"])


def _recorded(folder: Path, runs: set[str]) -> tuple[dict[str, float], int]:
    """Seconds by stage and tokens embedded, as Dagster recorded them for the given runs."""
    import dagster as dg

    from rds_dagster.runs.instance import open_instance
    from rds_dagster.storage.layout import Layout

    stage_s: defaultdict[str, float] = defaultdict(float)
    tokens = 0
    with open_instance(Layout.of_project(folder)) as instance:
        for run_id in runs:
            for step in instance.get_run_step_stats(run_id):
                if step.start_time and step.end_time:
                    stage_s[step.step_key.split("__")[0]] += step.end_time - step.start_time
            passes = set()
            for event in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
                made = event.asset_materialization
                if made and made.asset_key.path[0] == "embeddings":
                    passes.add(int(made.metadata["tokens_in_pass"].value))  # type: ignore[arg-type]
            tokens += sum(passes)
    return dict(stage_s), tokens


def _run_ids(folder: Path) -> set[str]:
    from rds_dagster.runs.instance import open_instance
    from rds_dagster.storage.layout import Layout

    with open_instance(Layout.of_project(folder)) as instance:
        return {run.run_id for run in instance.get_runs()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/ and tasks/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the project and its state; what is in it is removed")
    parser.add_argument("--share", type=float, default=1.0, help="of each pool, the first so much; for trying the script")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    said = parser.parse_args()
    folder = said.work / "project"
    shutil.rmtree(folder, ignore_errors=True)
    later = make_project(said.data, folder, said.share)
    cold = run(folder)
    for pool, rows in later.items():
        write_lines(folder / "data" / pool / LATER_FILE, rows)
    refresh, idle = run(folder), run(folder)
    fresh, tokens = new_tokens(folder, later)
    figures = Figures("growth")
    print(f"conversations in the cold run: {sum(len(read_lines(folder / 'data' / pool / FIRST_FILE)) for pool in POOLS):,} in {len(POOLS)} pools")
    figures.figure("start-up of Python, Dagster, Great Expectations and the definitions, a part of each figure below", [start_up_s(folder)], "s")
    figures.figure("imports of PyTorch, transformers and LanceDB, a part of cold and refresh", [libraries_s()], "s")
    for name, ran in (("cold", cold), ("refresh", refresh), ("nothing to do", idle)):
        figures.figure(name, [ran.wall_s], "s")
        print(f"{name}: {ran.runs} Dagster runs, {ran.tokens:,} tokens embedded")
    print(f"new rows: {sum(map(len, later.values())):,}, of them new unique examples: {fresh:,} of {tokens:,} tokens")
    figures.ratio("refresh / cold", [refresh.wall_s], [cold.wall_s], "lower")
    figures.ratio("tokens embedded by the refresh / tokens of the new unique examples", [refresh.tokens], [tokens], "lower")
    print("\n| stage | cold, s | refresh, s | nothing to do, s |\n|---|---:|---:|---:|")
    for stage in dict.fromkeys([*cold.stage_s, *refresh.stage_s]):
        print(f"| {stage} | {cold.stage_s.get(stage, 0):,.1f} | {refresh.stage_s.get(stage, 0):,.1f} | {idle.stage_s.get(stage, 0):,.1f} |")
    figures.write(said.json)


if __name__ == "__main__":
    main()
