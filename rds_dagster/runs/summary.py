"""What `rds status` and `rds demo` say of a project."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rds_dagster.runs.instance import open_instance
from rds_dagster.runs.loading import collector_paused, load_project
from rds_dagster.runs.looking import changed_outside
from rds_dagster.runs.staleness import find_stale
from rds_dagster.runs.walk import failing_blocking_checks
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore

STAGES = (
    "raw",
    "clean",
    "provenance",
    "unique",
    "encoders",
    "embeddings",
    "queries",
    "test_items",
    "whitening",
    "scores",
    "mixtures",
    "exports",
    "reports",
)


@dataclass(frozen=True)
class Stage:
    """What is stored of one stage: assets, rows kept, rows dropped by reason."""

    stage: str
    assets: int
    rows: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class ProjectStatus:
    """``stale``: key -> reasons; ``following``: what a run will look at after them; ``failing_checks``: blocking ones, as asset:check.

    ``made_on``: the device kinds and library versions that made the stored vectors.
    """

    project: str
    stale: dict[str, list[str]]
    following: list[str]
    failing_checks: list[str]
    stages: list[Stage]
    made_on: list[str]


def project_status(folder: Path) -> ProjectStatus:
    """Look at the pools and say what is stale; materializes nothing."""
    with collector_paused():
        project = load_project(folder)
        with open_instance(project.layout) as instance:
            found = find_stale(project, instance, changed_outside(project))
            failing = failing_blocking_checks(project, instance)
        return ProjectStatus(
            project=str(folder),
            stale={key.to_user_string(): list(reasons) for key, reasons in found.stale.items()},
            following=sorted(key.to_user_string() for key in found.following),
            failing_checks=sorted(failing.values()),
            stages=_stages(project.layout),
            made_on=_made_on(project.layout),
        )


def status_json(said: ProjectStatus) -> str:
    """The status for programs."""
    return json.dumps(asdict(said), indent=1, ensure_ascii=False)


def status_text(said: ProjectStatus) -> str:
    """The status for people."""
    lines = [f"project {said.project}", "", f"{'stage':<12} {'assets':>6} {'rows':>12}  dropped"]
    for stage in said.stages:
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in stage.dropped.items())
        lines.append(f"{stage.stage:<12} {stage.assets:>6} {stage.rows:>12,}  {dropped}".rstrip())
    lines.append("")
    if said.stale:
        lines += [f"{len(said.stale)} stale", *(f"  {key}: {'; '.join(reasons)}" for key, reasons in said.stale.items())]
    else:
        lines.append("nothing is stale")
    if said.following:
        lines += [f"{len(said.following)} may follow", f"  {', '.join(said.following)}"]
    if said.failing_checks:
        lines += ["blocking checks that fail", *(f"  {check}" for check in said.failing_checks)]
    if len(said.made_on) > 1:
        lines.append(f"vectors were made on {len(said.made_on)} kinds of device or versions: {'; '.join(said.made_on)}")
    return "\n".join(lines)


def demo_summary(folder: Path) -> str:
    """What the demo selected, where the files and the reports lie, and how to go on."""
    layout = Layout.of_project(folder)
    store = TableStore(layout)
    lines = [""]
    for mixture in store.manifests("mixtures"):
        sources = store.read(mixture, "examples", ["pool"]).column("pool").value_counts()
        shares = sorted(((int(entry["counts"]), str(entry["values"])) for entry in sources.to_pylist()), reverse=True)
        lines.append(f"{mixture.key.split('/', 1)[1]:<18} {mixture.counts.kept:>5} examples: " + ", ".join(f"{pool} {count}" for count, pool in shares))
    dropped = {stage.stage: stage.dropped for stage in _stages(layout) if stage.dropped}
    lines += [
        "",
        "left the flow: " + "; ".join(f"{stage}: " + ", ".join(f"{reason} {n}" for reason, n in reasons.items()) for stage, reasons in dropped.items()),
    ]
    for group, what in (("exports", "training files"), ("reports", "reports")):
        paths = [layout.home / manifest.files[0].path for manifest in store.manifests(group) if manifest.files and manifest.files[0].table in ("jsonl", "html")]
        lines += ["", what, *(f"  {path}" for path in paths)]
    example = next((m for m in store.manifests("mixtures") if m.settings["method"] == "rds"), None)
    if example:
        first = store.read(example, "examples", ["id"]).column("id")[0].as_py().hex()
        lines += [
            "",
            "go on",
            f"  rds explain {example.key.split('/', 1)[1]} {first[:12]}",
            "  rds status",
            "  rds ui          then open http://127.0.0.1:3000/asset-groups",
        ]
    return "\n".join(lines)


def _stages(layout: Layout) -> list[Stage]:
    store = TableStore(layout)
    stages = []
    for stage in STAGES:
        manifests = store.manifests(stage)
        dropped: dict[str, int] = {}
        for manifest in manifests:
            for reason, count in manifest.counts.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        stages.append(Stage(stage, len(manifests), sum(m.counts.kept for m in manifests), dict(sorted(dropped.items()))))
    return stages


def _made_on(layout: Layout) -> list[str]:
    """What made the vectors of the encoder that embeddings/* name; a column is read, no vector."""
    encoders = {(manifest.text("encoder"), manifest.number("dims")) for manifest in TableStore(layout).manifests("embeddings")}
    return sorted({made_on for encoder, dims in encoders for made_on in VectorStore(layout, encoder, dims).made_on()})
