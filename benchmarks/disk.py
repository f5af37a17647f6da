"""What an example costs on disk, by stage: real pools, cleaned, embedded, scored and selected from by `rds run`.

    python -m benchmarks.disk --data DIR [--examples 20000] [--work DIR] [--json FILE]

``--data`` holds ``pool/<source>.jsonl.zst`` and ``tasks/<task>.jsonl.zst``; equal numbers of records are taken of several sources, spread over each. The
project stays in ``--work`` if that is named (what is in it is removed first). Printed, one line a figure: the bytes of the input as text and as it lies
(zstd), then the bytes of each stage a kept example; and beside their limits: texts beside the input, vectors beside two bytes a number, a task's scores beside
the 24 bytes of id, score and query. A pool is never copied as it came: the raw stage is a list of files.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.figures import Figures
from benchmarks.growth import TASKS, read_lines, run, write_lines
from benchmarks.instances import write_instance
from rds_dagster.runs.new_project import make_project
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore

SOURCES = ("alpaca", "dolly", "ei_code_example", "flan_cot", "gpteacher_codegen", "gpteacher_toolformer", "ni_v1", "t0_50k")
BUDGET_SHARE = 0.05  # the paper's 326k of 5.8 million
SCORE_BYTES = 16 + 4 + 4
WHAT = {
    ("raw", "files"): "raw: list of files",
    ("clean", "shard"): "clean: texts",
    ("clean", "index"): "clean: index",
    ("clean", "quarantine"): "clean: quarantine",
    ("provenance", "places"): "provenance",
    ("unique", "kept"): "unique: kept",
    ("unique", "losers"): "unique: losers",
    ("unique", "quarantine"): "unique: quarantine",
    ("queries", "queries"): "queries",
    ("scores", "scores"): "scores, all tasks",
    ("scores", "top"): "top lists of the queries, all tasks",
    ("scores", "queries"): "queries, again with the scores",
}
"""(group, table) -> its name here; other groups go by their own names, tables of SQL models together."""


def make(data: Path, folder: Path, examples: int) -> tuple[int, int, int]:
    """A project of about so many real records, made by `rds run`; returns how many, their bytes as text, and in the compressed files."""
    make_project(folder, with_demo=False)
    records = text_bytes = file_bytes = 0
    for source in SOURCES:
        lines, wanted = read_lines(data / "pool" / f"{source}.jsonl.zst"), examples // len(SOURCES)
        lines = lines[:: max(1, len(lines) // wanted)][:wanted]
        path = folder / "data" / source / "part-0.jsonl.zst"
        write_lines(path, lines)
        write_instance(folder, f"pools/{source}", "Pool", {"name": source, "source": f"data/{source}"})
        records, text_bytes, file_bytes = records + len(lines), text_bytes + sum(map(len, lines)), file_bytes + path.stat().st_size
    for task, file in TASKS.items():
        write_instance(folder, f"tasks/{task}", "Task", {"name": task, "queries": str((data / "tasks" / f"{file}.jsonl.zst").resolve())})
    write_instance(folder, "mixtures/mixed", "Mixture", {"name": "mixed", "budget": round(records * BUDGET_SHARE)})
    write_instance(folder, "corpus", "Corpus", {"pools": list(SOURCES), "encoder": {"dtype": "float32"}})
    run(folder)
    return records, text_bytes, file_bytes


def bytes_by_stage(layout: Layout) -> dict[str, int]:
    """Bytes of everything that the state holds."""
    found: Counter[str] = Counter()
    counted: set[Path] = set()
    for manifest in TableStore(layout).all_manifests():
        group = manifest.key.split("/")[0]
        for file in manifest.files:
            path = layout.home / file.path
            if path not in counted:
                counted.add(path)
                found["SQL models" if file.table == "rows" else WHAT.get((group, file.table), group)] += path.stat().st_size
    for name, folder in (("vectors", layout.vectors), ("warehouse", layout.warehouse), ("Dagster's records", layout.dagster)):
        files = {path for path in [folder, *folder.rglob("*")] if path.is_file()}
        counted |= files
        found[name] += sum(path.stat().st_size for path in files)
    others = {path for path in layout.home.rglob("*") if path.is_file()} - counted
    found["manifests and the rest"] += sum(path.stat().st_size for path in others)
    return dict(found)


def report(figures: Figures, folder: Path, records: int, text_bytes: int, file_bytes: int) -> None:
    """Print what the project in ``folder`` takes."""
    layout = Layout(folder / ".rds")
    store = TableStore(layout)
    kept = sum(manifest.counts.kept for manifest in store.manifests("unique") if manifest.key != "unique/all")
    dims = store.manifests("embeddings")[0].number("dims")
    scored = sum(manifest.counts.kept for manifest in store.manifests("scores") if manifest.key.startswith("scores/rds/"))
    print(f"{records:,} records of {len(SOURCES)} pools, {kept:,} unique examples, {dims} dims, {len(TASKS)} tasks", flush=True)
    figures.figure("input as text", [text_bytes / records], "bytes a record")
    figures.figure("input as it lies, zstd", [file_bytes / records], "bytes a record")
    stages = bytes_by_stage(layout)
    for stage, size in sorted(stages.items(), key=lambda item: -item[1]):
        figures.figure(stage, [size / kept], "bytes an example")
    whole = sum(stages.values())
    figures.figure("the whole state", [whole / kept], "bytes an example")
    figures.ratio("clean: texts / input as text", [stages["clean: texts"]], [text_bytes], "lower")
    figures.ratio("clean: texts / input as it lies, zstd", [stages["clean: texts"]], [file_bytes], "lower")
    figures.ratio("vectors / two bytes a number", [stages["vectors"]], [kept * dims * 2], "lower")
    figures.ratio("scores / 24 bytes an example and task", [stages["scores, all tasks"]], [scored * SCORE_BYTES], "lower")
    figures.ratio("the whole state / input as text", [whole], [text_bytes], "lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/ and tasks/")
    parser.add_argument("--examples", type=int, default=20_000, help="records to take, in all")
    parser.add_argument("--work", type=Path, help="folder for the project and its state; left out: a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    said = parser.parse_args()
    figures = Figures("disk")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (said.work or Path(temporary)).resolve() / "project"
        shutil.rmtree(folder, ignore_errors=True)
        report(figures, folder, *make(said.data, folder, said.examples))
    figures.write(said.json)


if __name__ == "__main__":
    main()
