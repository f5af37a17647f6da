"""A project that refreshes itself: the real UI with its daemon, automation on, and files that change. No hand touches a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml

from rds_dagster.components.check_outcomes import latest_evaluations
from rds_dagster.runs.instance import open_instance
from rds_dagster.runs.walk import run_stale
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Manifest
from rds_dagster.storage.tables import TableStore

RDS = str(Path(sys.executable).with_name("rds"))
SHORT = {"name": "short", "type": "expect_column_values_to_be_between", "kwargs": {"column": "num_messages", "max_value": 4}}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@dataclass
class Automatic:
    """A project whose UI runs with `--auto`."""

    folder: Path
    process: subprocess.Popen[bytes]

    def manifest(self, key: str) -> Manifest:
        return TableStore(Layout(self.folder / ".rds")).need(key)

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float = 420) -> None:
        until = time.monotonic() + timeout_s
        while not is_so():
            assert self.process.poll() is None, f"the UI ended: {self.said()}"
            assert time.monotonic() < until, f"{what}: not within {timeout_s} s; {self.said()}"
            time.sleep(0.5)

    def said(self) -> str:
        return (self.folder / "said.txt").read_text()

    def runs(self) -> list[dg.DagsterRun]:
        with open_instance(Layout(self.folder / ".rds")) as instance:
            return instance.get_runs()

    def prompts(self, mixture: str) -> set[str]:
        """What the users of a mixture's examples ask first."""
        store = TableStore(Layout(self.folder / ".rds"))
        return {
            messages[0]["content"] for messages in store.read(self.manifest(f"mixtures/{mixture}"), "examples", ["messages"]).column("messages").to_pylist()
        }

    def fits(self, below: str, above: str) -> bool:
        """Whether one asset was made from what another is now."""
        return self.manifest(below).parents[above] == self.manifest(above).fingerprint

    def check_passes(self) -> bool | None:
        """Whether the pool's own check passed when it was run last."""
        key = dg.AssetCheckKey(dg.AssetKey(["clean", "towns"]), "short")
        with open_instance(Layout(self.folder / ".rds")) as instance:
            said = latest_evaluations(instance, [key]).get(key)
        return said.passed if said else None

    def has_been_refreshed(self, key: str) -> bool:
        """Whether a run of refresh_stale that makes the asset has ended."""
        asset = dg.AssetKey(key.split("/"))
        return any(run.is_finished and asset in (run.asset_selection or ()) and run.tags.get("dagster/sensor_name") == "refresh_stale" for run in self.runs())

    def is_quiet(self) -> bool:
        return all(run.is_finished for run in self.runs())


@pytest.fixture
def automatic(own_project: Path) -> Iterator[Automatic]:
    """The built project with the pool `towns` as a folder; stopped with Ctrl-C's signal, and nothing of it stays behind."""
    (own_project / "data" / "towns").mkdir()
    (own_project / "data" / "towns.jsonl").rename(own_project / "data" / "towns" / "towns.jsonl")
    edit(own_project / "assets" / "pools" / "towns" / "defs.yaml", source="data/towns", checks=[SHORT])
    settled = run_stale(own_project, None, lambda line: None)  # else the new source is a reason of its own to make raw/towns, with whatever lies there
    assert settled.is_success
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "RDS_HOME", "RDS_PROJECT")}
    with (own_project / "said.txt").open("wb") as out:
        process = subprocess.Popen([RDS, "--project", str(own_project), "ui", "--port", "0", "--auto"], stdout=out, stderr=subprocess.STDOUT, env=environment)
    family: list[psutil.Process] = []
    try:
        found = Automatic(own_project, process)
        found.wait_until(lambda: "the Dagster UI answers on" in found.said(), "the UI did not answer")
        yield found
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
        status = process.wait(timeout=120)
        if kept := os.environ.get("RDS_KEEP_LOGS"):
            shutil.copytree(own_project / ".rds" / "logs", kept, dirs_exist_ok=True)
    assert status == 0
    assert [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []


def edit(defs: Path, **attributes: object) -> None:
    said = yaml.safe_load(defs.read_text())
    said["attributes"] = {name: value for name, value in {**said["attributes"], **attributes}.items() if value is not None}
    defs.write_text(yaml.safe_dump(said, sort_keys=False))


def ask(question: str, answer: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}) + "\n"


def test_files_and_mended_checks_become_new_versions_without_a_hand(automatic):
    """From a file dropped into a pool's folder to a mixture that holds it; then a check that fails, and that is mended in YAML."""
    assert "automation is on (sensor refresh_stale)" in automatic.said()
    # what automation has never seen it makes once: a file that is dropped before that is found by raw/towns itself, with nobody asking for it
    automatic.wait_until(lambda: automatic.has_been_refreshed("raw/towns"), "the first wave did not come")
    before = automatic.manifest("mixtures/best").fingerprint
    runs_before = {run.run_id for run in automatic.runs() if "dagster/sensor_name" not in run.tags}
    towns = automatic.folder / "data" / "towns"
    (towns / "more.jsonl").write_text(ask("What is 23 plus 1?", "23 plus 1 is 24."))
    automatic.wait_until(lambda: automatic.manifest("mixtures/best").fingerprint != before, "no new version")
    automatic.wait_until(lambda: automatic.fits("exports/best", "mixtures/best"), "no export of the new version")
    assert automatic.manifest("clean/towns").counts.kept == 11
    assert "What is 23 plus 1?" in automatic.prompts("best")

    long = json.loads(ask("What is 41 plus 1?", "41 plus 1 is 42."))
    (towns / "long.jsonl").write_text(json.dumps({"messages": long["messages"] * 3}) + "\n")
    automatic.wait_until(lambda: automatic.check_passes() is False, "the check did not fail")
    automatic.wait_until(automatic.is_quiet, "the runs go on")
    assert automatic.manifest("clean/towns").counts.kept == 12
    assert not automatic.fits("unique/towns", "clean/towns"), "the wave stopped at the check"

    edit(automatic.folder / "assets" / "pools" / "towns" / "defs.yaml", checks=[{**SHORT, "kwargs": {"column": "num_messages", "max_value": 8}}])
    automatic.wait_until(lambda: automatic.check_passes() is True, "the mended check was not run again")
    for below, above in (
        ("unique/towns", "clean/towns"),
        ("embeddings/towns", "unique/towns"),
        ("mixtures/best", "unique/towns"),
        ("exports/best", "mixtures/best"),
    ):
        automatic.wait_until(partial(automatic.fits, below, above), f"{below} does not follow from {above}")
    asked = [run.tags.get("dagster/sensor_name") for run in automatic.runs() if run.run_id not in runs_before]
    assert set(asked) == {"watch_files", "check_again", "refresh_stale"}, "all three had their part, and no hand"
    assert len({run.tags["dagster/run_key"] for run in automatic.runs() if "dagster/run_key" in run.tags}) >= 3, "two files, and the mended check"
