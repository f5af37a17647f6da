"""A whole project, served by `rds ui` and materialized from it: over GraphQL as the browser does, then looked at in a real browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

UI = """
import sys
from pathlib import Path
from rds_dagster.runs.servers import run_ui
from rds_dagster.storage.layout import Layout

folder = Path(sys.argv[1])
sys.exit(run_ui(folder, Layout.of_project(folder), port=0, say=lambda line: print(line, flush=True)))
"""

STAGES = ["raw", "clean", "unique", "embeddings", "scores", "mixtures"]
POOLS = ["sums", "talk"]
INSTANCES = {
    "pools/sums": ("Pool", {"name": "sums", "source": "data/sums.jsonl"}),
    "pools/talk": ("Pool", {"name": "talk", "source": "data/talk.jsonl"}),
    "tasks/adding": ("Task", {"name": "adding", "queries": "data/adding.jsonl"}),
    "corpus": ("Corpus", {"pools": POOLS, "encoder": {"name": "tiny", "model": "tiny", "dtype": "float32", "max_tokens": 64}}),
    "mixtures/best": ("Mixture", {"name": "best", "budget": 8, "compare_with": "by_chance"}),
    "mixtures/by_chance": ("Mixture", {"name": "by_chance", "budget": 8, "method": "random"}),
}
PYPROJECT = """
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "assets"
defs_module = "assets"
code_location_name = "rds_dagster"
code_location_target_module = "rds_dagster.definitions"
registry_modules = ["rds_dagster.components"]
"""
WORKSPACE = {"load_from": [{"python_module": {"module_name": "rds_dagster.definitions", "location_name": "rds_dagster", "working_directory": "."}}]}

NODES = "{ assetNodes { assetKey { path } groupName dependencyKeys { path } hasMaterializePermission staleStatus } }"
LAUNCH = """mutation($run: ExecutionParams!) { launchPipelineExecution(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status tags { key value } } } }"
FAILURES = """query($run: ID!) { runOrError(runId: $run) { ... on Run { eventConnection { events {
  ... on ExecutionStepFailureEvent { stepKey error { message causes { message } } } } } } } }"""
CHECKS = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks {
  name blocking executionForLatestMaterialization { status evaluation { success description } } } } } } } }"""


@dataclass
class Ui:
    """A running UI."""

    address: str

    def ask(self, query: str, **variables: object) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            said = json.load(answer)
        assert "errors" not in said, said["errors"]
        return said["data"]

    def nodes(self) -> dict[str, dict]:
        return {"/".join(node["assetKey"]["path"]): node for node in self.ask(NODES)["assetNodes"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with two pools of 20 conversations, one task, and two mixtures."""
    folder = tmp_path_factory.mktemp("ui") / "project"
    for place, (component, attributes) in INSTANCES.items():
        instance = folder / "assets" / place / "defs.yaml"
        instance.parent.mkdir(parents=True)
        instance.write_text(json.dumps({"type": f"rds_dagster.components.{component}", "attributes": attributes}))  # JSON is YAML
    (folder / "assets" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "workspace.yaml").write_text(json.dumps(WORKSPACE))
    birds = ["robin", "heron", "finch", "crane", "raven", "swift", "eagle", "stork", "quail", "goose"]
    places = ["by the river", "over the roofs"]
    talk = [(f"Tell me where the {bird} lives {place}.", f"The {bird} builds its nest {place} and sings at dawn.") for bird in birds for place in places]
    write_conversations(folder / "data" / "sums.jsonl", [(f"What is {n} plus {3 * n + 1}?", f"{n} plus {3 * n + 1} is {4 * n + 1}.") for n in range(20)])
    write_conversations(folder / "data" / "talk.jsonl", talk)
    write_conversations(folder / "data" / "adding.jsonl", [("Add 31 and 12.", "31 and 12 make 43."), ("What is 5 plus 70?", "5 plus 70 is 75.")])
    return folder


def write_conversations(path: Path, turns: list[tuple[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    messages = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}] for prompt, reply in turns]
    path.write_text("".join(json.dumps({"messages": conversation}) + "\n" for conversation in messages))


@pytest.fixture(scope="module")
def ui(project: Path) -> Iterator[Ui]:
    """The project's UI, started as `rds ui` starts it and stopped with Ctrl-C's signal; fails if a process stays behind."""
    said = project.with_name("said.txt")
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "RDS_PROJECT")}
    with said.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", UI, str(project)], stdout=out, stderr=subprocess.STDOUT, env=environment | {"RDS_HOME": str(project.with_name("home"))}
        )
    try:
        until = time.monotonic() + 180
        while "the Dagster UI answers on" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.2)
        yield Ui(re.findall(r"http://127\.0\.0\.1:\d+", said.read_text())[0])
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=90)
    assert status == 0, said.read_text()
    assert [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="module")
def run_of_everything(ui: Ui) -> str:
    """The id of a run of all assets, launched from the UI, that has ended."""
    selector = {
        "repositoryLocationName": "rds_dagster",
        "repositoryName": "__repository__",
        "jobName": "__ASSET_JOB",
        "assetSelection": [node["assetKey"] for node in ui.nodes().values()],
    }
    launched = ui.ask(LAUNCH, run={"selector": selector, "mode": "default"})["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run = launched["run"]["runId"]
    until = time.monotonic() + 240
    while ui.ask(STATUS, run=run)["runOrError"]["status"] not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < until, "the run of everything took more than 240 s"
        time.sleep(0.5)
    return run


def test_the_asset_graph_reads_from_raw_to_mixtures(ui):
    nodes = ui.nodes()
    depends = {key: {"/".join(parent["path"]) for parent in node["dependencyKeys"]} for key, node in nodes.items()}
    assert depends["raw/sums"] == set()
    assert depends["clean/sums"] == {"raw/sums"}
    assert depends["unique/sums"] >= {"clean/sums", "clean/talk"}
    assert depends["embeddings/sums"] >= {"unique/sums"}
    assert depends["scores/rds/adding"] >= {"embeddings/sums", "embeddings/talk", "queries/adding"}
    assert depends["mixtures/best"] == {"unique/sums", "unique/talk", "scores/rds/adding"}
    assert depends["mixtures/by_chance"] == {"unique/sums", "unique/talk"}
    assert [{node["groupName"] for key, node in nodes.items() if key.startswith(f"{stage}/")} for stage in STAGES] == [{stage} for stage in STAGES]


def test_a_materialization_of_everything_launched_from_the_ui_succeeds(ui, run_of_everything):
    run = ui.ask(STATUS, run=run_of_everything)["runOrError"]
    errors = [event for event in ui.ask(FAILURES, run=run_of_everything)["runOrError"]["eventConnection"]["events"] if event]
    assert (run["status"], errors) == ("SUCCESS", [])
    assert "rds/host" in {tag["key"] for tag in run["tags"]}
    assert {key: node["staleStatus"] for key, node in ui.nodes().items() if node["staleStatus"] != "FRESH"} == {}


def test_all_checks_pass_for_what_was_materialized(ui, run_of_everything):
    found = {}
    for key, node in ui.nodes().items():
        checks = ui.ask(CHECKS, key=node["assetKey"])["assetNodeOrError"]["assetChecksOrError"].get("checks", [])
        found |= {f"{key}:{check['name']}": check["executionForLatestMaterialization"] for check in checks}
    assert {name.split("/")[0] for name in found} >= {"clean", "unique", "embeddings", "scores", "mixtures"}
    assert {name: run for name, run in found.items() if run is None or run["status"] != "SUCCEEDED"} == {}


def test_the_picture_of_the_lineage_can_be_seen_in_a_browser(ui, run_of_everything, tmp_path):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on the path; install it to have the UI looked at (apt-get install chromium)")
    kept = os.environ.get("RDS_SCREENSHOTS")
    picture = Path(kept or tmp_path).resolve() / "asset-graph.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=15000"),
        *("--window-size=1800,1000", f"--screenshot={picture}", "--dump-dom", f"{ui.address}/asset-groups"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert picture.exists(), done.stderr[-2000:]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 60_000, "a page with nothing on it is 8 kB, this one 150 kB"
    words = re.findall(r">(\w+)<", done.stdout)
    assert {stage: words.count(stage) for stage in STAGES if words.count(stage) < 2} == {}, "each group stands in the list and as a box of the graph"
