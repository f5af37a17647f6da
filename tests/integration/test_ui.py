"""A whole project, served by `rds ui` and materialized from it: over GraphQL as the browser does, then looked at in a real browser.

Then it changes: what the UI calls unsynced, what its button "Materialize unsynced" takes and what `rds status` calls stale are the same.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import websocket

UI = """
import sys
from pathlib import Path
from rds_dagster.runs.servers import run_ui
from rds_dagster.storage.layout import Layout

folder = Path(sys.argv[1])
sys.exit(run_ui(folder, Layout.of_project(folder), port=0, say=lambda line: print(line, flush=True)))
"""

STAGES = ["raw", "clean", "unique", "embeddings", "scores", "mixtures"]
GROWING = STAGES[:4]  # what the pictures of growth show: as many columns as can be read at the width of a README
POOLS = ["sums", "talk"]
INSTANCES = {
    "pools/sums": ("Pool", {"name": "sums", "source": "data/sums.jsonl"}),
    "pools/talk": ("Pool", {"name": "talk", "source": "data/talk"}),
    "tasks/adding": ("Task", {"name": "adding", "queries": "data/adding.jsonl"}),
    "tasks/birds": ("Task", {"name": "birds", "queries": "data/birds.jsonl"}),
    "corpus": ("Corpus", {"pools": POOLS, "encoder": {"name": "tiny", "model": "tiny", "dtype": "float32", "max_tokens": 64}}),
    "mixtures/adding_only": ("Mixture", {"name": "adding_only", "budget": 6, "tasks": ["adding"]}),
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

NODES = """{ assetNodes { assetKey { path } groupName dependencyKeys { path } dependedByKeys { path } isMaterializable hasMaterializePermission
  staleStatus staleCauses { key { path } reason } assetMaterializations(limit: 1) { runId } } }"""
LAUNCH = """mutation($run: ExecutionParams!) { launchPipelineExecution(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status tags { key value } } } }"
FAILURES = """query($run: ID!) { runOrError(runId: $run) { ... on Run { eventConnection { events {
  ... on ExecutionStepFailureEvent { stepKey error { message causes { message } } } } } } } }"""
CHECKS = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks {
  name blocking executionForLatestMaterialization { status evaluation { success description } } } } } } } }"""
LAST_RUN = "{ runsOrError(limit: 1) { ... on Runs { results { runId assetSelection { path } } } } }"
SENSORS = """{ sensorsOrError(repositorySelector: {repositoryLocationName: "rds_dagster", repositoryName: "__repository__"}) {
  ... on Sensors { results { sensorState { id status } } } } }"""
STOP_SENSOR = "mutation($id: String!) { stopSensor(id: $id) { __typename } }"
RELOAD = """mutation { reloadRepositoryLocation(repositoryLocationName: "rds_dagster") { ... on WorkspaceLocationEntry { loadStatus } } }"""

MARGIN = 20
AROUND_GRAPH = """margin => {
  const boxes = [...document.querySelectorAll("svg foreignObject")].map(one => one.getBoundingClientRect());
  const x = Math.min(...boxes.map(box => box.left)) - margin, y = Math.min(...boxes.map(box => box.top)) - margin;
  const right = Math.max(...boxes.map(box => box.right)), bottom = Math.max(...boxes.map(box => box.bottom));
  return {x: x, y: y, width: right + margin - x, height: bottom + margin - y, scale: 1};
}"""
MIDDLE_OF = """words => {
  const found = [...document.querySelectorAll("svg foreignObject *")].filter(one => one.textContent === words).pop();
  const box = found && found.getBoundingClientRect();
  return box && {x: box.x + box.width / 2, y: box.y + box.height / 2};
}"""

RDS = """
import atexit, sys
from rds_dagster.cli import main
atexit.register(lambda: print("loaded:", sorted({"torch", "transformers"} & sys.modules.keys()), file=sys.stderr))
main()
"""


@dataclass
class Ui:
    """A running UI of a project; the state lies in ``home``."""

    address: str
    project: Path
    home: Path

    def ask(self, query: str, **variables: object) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            said = json.load(answer)
        assert "errors" not in said, said["errors"]
        return said["data"]

    def nodes(self) -> dict[str, dict]:
        return {"/".join(node["assetKey"]["path"]): node for node in self.ask(NODES)["assetNodes"]}

    def unsynced(self) -> dict[str, list[str]]:
        """What "Materialize unsynced" takes: all that can be made and is stale or missing; with the causes that the badge shows, in the badge's words."""
        return {key: causes(key, node) for key, node in self.nodes().items() if node["isMaterializable"] and node["staleStatus"] in ("STALE", "MISSING")}

    def below(self, keys: Iterable[str]) -> set[str]:
        """Everything downstream of the keys, without them."""
        nodes, found, waiting = self.nodes(), set(), list(keys)
        while waiting:
            new = {"/".join(child["path"]) for child in nodes[waiting.pop()]["dependedByKeys"]} - found
            found |= new
            waiting.extend(new)
        return found - set(keys)

    def made_by(self) -> dict[str, str]:
        """Key -> the run that made it last."""
        return {key: node["assetMaterializations"][0]["runId"] for key, node in self.nodes().items() if node["assetMaterializations"]}

    def materialize(self, keys: Iterable[str]) -> str:
        """Launch a run of the assets as the UI's button does, and wait for its end; returns its id."""
        selector = {
            "repositoryLocationName": "rds_dagster",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": key.split("/")} for key in sorted(keys)],
        }
        launched = self.ask(LAUNCH, run={"selector": selector, "mode": "default"})["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return self.wait_for_run(launched["run"]["runId"])

    def wait_for_run(self, run: str) -> str:
        until = time.monotonic() + 240
        while self.ask(STATUS, run=run)["runOrError"]["status"] not in ("SUCCESS", "FAILURE", "CANCELED"):
            assert time.monotonic() < until, "the run took more than 240 s"
            time.sleep(0.5)
        return run

    def failures(self, run: str) -> list[dict]:
        return [event for event in self.ask(FAILURES, run=run)["runOrError"]["eventConnection"]["events"] if event]

    def reload(self) -> None:
        """What the button "Reload definitions" does."""
        assert self.ask(RELOAD)["reloadRepositoryLocation"] == {"loadStatus": "LOADED"}

    def rds(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line on the project; it has to succeed."""
        environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "RDS_PROJECT")} | {"RDS_HOME": str(self.home)}
        command = [sys.executable, "-c", RDS, "--project", str(self.project), *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done

    def status(self) -> dict:
        return json.loads(self.rds("status", "--json").stdout)


def causes(key: str, node: dict) -> list[str]:
    if node["staleStatus"] == "MISSING":
        return ["never materialized"]
    own = [(cause["reason"], "/".join(cause["key"]["path"])) for cause in node["staleCauses"]]
    return sorted({reason if cause == key else f"{cause} {reason}" for reason, cause in own})


def agreed(ui: Ui) -> dict[str, list[str]]:
    """What is unsynced, with its causes; `rds status` names the same with the same, and all that stands below."""
    shown, said = ui.unsynced(), ui.status()
    assert said["stale"] == shown
    assert set(said["following"]) == ui.below(shown)
    return shown


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with two pools of 20 conversations, two tasks, and three mixtures."""
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
    write_conversations(folder / "data" / "talk" / "birds.jsonl", talk)
    write_conversations(folder / "data" / "adding.jsonl", [("Add 31 and 12.", "31 and 12 make 43."), ("What is 5 plus 70?", "5 plus 70 is 75.")])
    write_conversations(folder / "data" / "birds.jsonl", [("Where does the owl live?", "The owl lives in the barn and hunts at night.")])
    return folder


def write_conversations(path: Path, turns: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}] for prompt, reply in turns]
    path.write_text("".join(json.dumps({"messages": conversation}) + "\n" for conversation in messages))


@pytest.fixture(scope="module")
def ui(project: Path) -> Iterator[Ui]:
    """The project's UI, started as `rds ui` starts it and stopped with Ctrl-C's signal; fails if a process stays behind."""
    said, home = project.with_name("said.txt"), project.with_name("home")
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "RDS_PROJECT")}
    with said.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", UI, str(project)], stdout=out, stderr=subprocess.STDOUT, env=environment | {"RDS_HOME": str(home)})
    try:
        until = time.monotonic() + 180
        while "the Dagster UI answers on" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.2)
        yield Ui(re.findall(r"http://127\.0\.0\.1:\d+", said.read_text())[0], project, home)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=90)
    assert status == 0, said.read_text()
    assert [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []


@dataclass
class Page:
    """A page of a headless Chromium, driven over its DevTools protocol."""

    socket: websocket.WebSocket
    said: int = 0

    def do(self, method: str, **parameters: object) -> dict:
        self.said += 1
        self.socket.send(json.dumps({"id": self.said, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.said:
            pass  # an event
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script: str) -> object:
        """The value of a script."""
        result = self.do("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_until(self, script: str, otherwise: str, timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while not self.run(script):
            assert time.monotonic() < until, f"{otherwise} within {timeout_s} s; the page says: {self.words()}"
            time.sleep(0.2)

    def words(self) -> list[str]:
        """The lines that can be read."""
        return str(self.run("document.body.innerText")).splitlines()

    def show_graph(self, ui: Ui, groups: Sequence[str] = ()) -> None:
        """Open the asset graph, with a closed box for each group; or of some groups alone, opened, each asset with its status. Waits until all is there."""
        self.do("Emulation.setDeviceMetricsOverride", width=1880 if groups else 2760, height=900, deviceScaleFactor=1.5 if groups else 1, mobile=False)
        nodes = [node for node in ui.nodes().values() if not groups or node["groupName"] in groups]
        chosen, opened = " or ".join(f'group:"{group}"' for group in groups), ",".join(f"global@global:{group}" for group in groups)
        query = f"~{quote(chosen, safe='')}?expanded={quote(opened)}" if groups else ""
        self.do("Page.navigate", url=f"{ui.address}/asset-groups{query}")
        boxes = "document.querySelectorAll('foreignObject.group').length"
        self.wait_until(f"{boxes} === {len({node['groupName'] for node in nodes})}", "not every group has its box")
        if groups:
            self.run(f"localStorage.setItem('asset-node-facets', '{json.dumps(['unsynced-tag', 'status'])}')")  # what the UI's own menu sets
            self.do("Page.reload")
            self.wait_until(f"{boxes} === {len(groups)}", "not every group has its box")
            self.wait_until(f"document.body.innerText.split('Materialized\\n').length === {len(nodes) + 1}", "not every asset has its status")
        else:
            self.wait_until(f"document.body.innerText.split(/\\n\\d+(?=\\n|$)/).length > {boxes}", "not every group has its count")

    def take(self, picture: Path) -> None:
        """Keep a picture of the graph as it is, once it has come to rest."""
        box = None
        while box != (box := self.run(f"({AROUND_GRAPH})({MARGIN})")):
            time.sleep(0.5)
        picture.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", clip=box)["data"]))

    def hover(self, words: str) -> None:
        """Move the mouse onto the innermost element that says this."""
        at = self.run(f"({MIDDLE_OF})({json.dumps(words)})")
        assert isinstance(at, dict), f"nothing says {words}"
        for aside in (60, 0):
            self.do("Input.dispatchMouseEvent", type="mouseMoved", x=at["x"] - aside, y=at["y"] - aside)

    def press(self, words: str, further: int = 0) -> None:
        """Press the button that says this, or the one that many further on."""
        button = f"(all => all[all.findIndex(one => one.innerText.startsWith({json.dumps(words)})) + {further}])([...document.querySelectorAll('button')])"
        self.wait_until(f"!!{button}", f"no button says {words}")
        self.run(f"{button}.click()")

    def materialize_unsynced(self) -> set[str]:
        """Open the dialog of that name for all assets in view, press its button, and return the names that stood in it."""
        self.press("Materialize all", further=1)
        self.press("Materialize unsynced")
        # a row has its name twice, once cut to the width
        rows = "[...document.querySelectorAll('[class*=CalculateUnsyncedDialog_rowGrid]')].map(row => row.innerText.trim().split('\\n')[0])"
        self.wait_until(f"{rows}.length > 1", "the dialog names nothing")
        named = self.run(rows)
        assert isinstance(named, list) and named[0] == "Asset Name"
        self.press(f"Materialize {len(named) - 1} assets")
        return {name.replace(" / ", "/") for name in named[1:]}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """An empty page."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on the path; install it to have the UI looked at (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("browser")
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", f"--user-data-dir={folder}", "--remote-debugging-port=0", "--window-size=1800,1000"),
    ]
    with (folder / "said.txt").open("wb") as out:
        browser = subprocess.Popen([*command, "about:blank"], stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        port = folder / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (port.exists() and port.read_text().count("\n")):
            assert browser.poll() is None and time.monotonic() < until, (folder / "said.txt").read_text()
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list", timeout=60) as answer:
            address = next(target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page")
        socket = websocket.create_connection(address, timeout=60, suppress_origin=True, http_no_proxy=["127.0.0.1"])
        yield Page(socket)
        socket.close()
    finally:
        os.killpg(browser.pid, signal.SIGTERM)
        browser.wait(timeout=60)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: the folder that RDS_SCREENSHOTS names, where it is set."""
    folder = Path(os.environ.get("RDS_SCREENSHOTS") or tmp_path).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def run_of_everything(ui: Ui) -> str:
    """The id of a run of all assets, launched from the UI, that has ended."""
    return ui.materialize(ui.nodes())


@pytest.fixture
def settled(ui: Ui, run_of_everything: str) -> Ui:
    """The UI when nothing is stale, with its sensors off: what is made is asked for."""
    for sensor in ui.ask(SENSORS)["sensorsOrError"]["results"]:
        if sensor["sensorState"]["status"] == "RUNNING":
            ui.ask(STOP_SENSOR, id=sensor["sensorState"]["id"])
    ui.rds("run")
    assert ui.unsynced() == {}
    return ui


def test_the_asset_graph_reads_from_raw_to_mixtures(ui):
    nodes = ui.nodes()
    depends = {key: {"/".join(parent["path"]) for parent in node["dependencyKeys"]} for key, node in nodes.items()}
    assert depends["raw/sums"] == set()
    assert depends["clean/sums"] == {"raw/sums"}
    assert depends["unique/sums"] >= {"clean/sums", "clean/talk"}
    assert depends["embeddings/sums"] >= {"unique/sums"}
    assert depends["scores/rds/adding"] >= {"embeddings/sums", "embeddings/talk", "queries/adding"}
    assert depends["mixtures/best"] == {"unique/sums", "unique/talk", "scores/rds/adding", "scores/rds/birds"}
    assert depends["mixtures/adding_only"] == {"unique/sums", "unique/talk", "scores/rds/adding"}
    assert depends["mixtures/by_chance"] == {"unique/sums", "unique/talk"}
    assert [{node["groupName"] for key, node in nodes.items() if key.startswith(f"{stage}/")} for stage in STAGES] == [{stage} for stage in STAGES]


def test_a_materialization_of_everything_launched_from_the_ui_succeeds(ui, run_of_everything):
    run = ui.ask(STATUS, run=run_of_everything)["runOrError"]
    assert (run["status"], ui.failures(run_of_everything)) == ("SUCCESS", [])
    assert "rds/host" in {tag["key"] for tag in run["tags"]}
    assert {key: node["staleStatus"] for key, node in ui.nodes().items() if node["staleStatus"] != "FRESH"} == {}


def test_all_checks_pass_for_what_was_materialized(ui, run_of_everything):
    found = {}
    for key, node in ui.nodes().items():
        checks = ui.ask(CHECKS, key=node["assetKey"])["assetNodeOrError"]["assetChecksOrError"].get("checks", [])
        found |= {f"{key}:{check['name']}": check["executionForLatestMaterialization"] for check in checks}
    assert {name.split("/")[0] for name in found} >= {"clean", "unique", "embeddings", "scores", "mixtures"}
    assert {name: run for name, run in found.items() if run is None or run["status"] != "SUCCEEDED"} == {}


def test_the_picture_of_the_lineage_can_be_seen_in_a_browser(ui, run_of_everything, page, pictures):
    page.show_graph(ui)
    words = page.words()
    assert {stage: words.count(stage) for stage in STAGES if words.count(stage) < 2} == {}, "each group stands in the list and as a box of the graph"
    page.take(pictures / "asset-graph.png")
    assert (pictures / "asset-graph.png").stat().st_size > 40_000, "a page with nothing on it is 8 kB, this one 80 kB"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_grown_pool_shows_as_unsynced_in_a_browser_and_its_button_takes_what_status_names(settled, page, pictures):
    page.show_graph(settled, GROWING)
    assert "Unsynced" not in " ".join(page.words())
    page.take(pictures / "growth-before.png")
    write_conversations(settled.project / "data" / "talk" / "owls.jsonl", [("Tell me where the owl sleeps.", "The owl sleeps in a hollow oak by day.")])
    settled.materialize(["raw/talk"])
    shown = agreed(settled)
    assert shown == {key: ["raw/talk has a new data version"] for key in ("clean/talk", "provenance/talk")}

    page.show_graph(settled, GROWING)
    page.wait_until("document.body.innerText.includes('Unsynced')", "no badge")
    page.take(pictures / "growth-after.png")
    assert " ".join(page.words()).count("Unsynced (1)") == 1, "of the groups in view, clean alone"
    page.hover("Unsynced (1)")
    page.wait_until("document.body.innerText.includes('1 upstream data version change\\nraw / talk\\nhas a new data version')", "the badge does not say why")

    page.show_graph(settled)
    assert page.materialize_unsynced() == set(shown)
    page.wait_until("document.body.innerText.includes('Launched run')", "no run was launched")
    (run,) = settled.ask(LAST_RUN)["runsOrError"]["results"]
    assert {"/".join(key["path"]) for key in run["assetSelection"]} == set(shown)
    assert settled.failures(settled.wait_for_run(run["runId"])) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_growth_goes_stage_by_stage_through_the_ui_and_status_says_the_same_at_each(settled):
    before = settled.made_by()
    write_conversations(settled.project / "data" / "talk" / "rooks.jsonl", [("Tell me where the rook lives.", "The rook lives in the elms."), ("Say 4.", "4.")])
    assert settled.unsynced() == {}, "Dagster hears of a file once raw/talk is materialized"
    at_first = settled.status()
    assert at_first["stale"] == {"raw/talk": ["the pool's files changed"]}
    assert set(at_first["following"]) == settled.below(["raw/talk"])
    settled.materialize(["raw/talk"])
    frontiers, failures = [], []
    while frontier := agreed(settled):
        frontiers.append(set(frontier))
        assert len(frontiers) <= 8, f"it does not come to rest: {frontiers}"
        failures += settled.failures(settled.materialize(frontier))

    first = {stage: next(n for n, frontier in enumerate(frontiers) if any(key.startswith(f"{stage}/") for key in frontier)) for stage in STAGES[1:]}
    assert (first["clean"], first["unique"], first["embeddings"], first["scores"]) == (0, 1, 2, 3), "one click a stage: unsynced is not transitive"
    made = {key for key, run in settled.made_by().items() if run != before[key]}
    assert {"mixtures/best", "exports/best", "reports/best", "scores/rds/adding", "scores/rds/birds"} <= made <= {"raw/talk", *at_first["following"]}
    assert not made & {"clean/sums", "embeddings/sums", "queries/adding", "encoders/tiny"}
    for failure in failures:  # a mixture is unsynced as soon as the unique pool is; asked for before its scores, it says so, and the next click makes it
        assert failure["stepKey"] in ("mixtures__best", "mixtures__adding_only")
        assert "was made for another state of unique/talk; run `rds run" in failure["error"]["causes"][0]["message"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_changed_queries_unsync_only_the_scores_of_their_task_and_the_mixtures_that_use_them(settled):
    before = settled.made_by()
    write_conversations(settled.project / "data" / "birds.jsonl", [("Where does the crow live?", "The crow lives in the poplars and is never alone.")])
    assert settled.unsynced() == {}
    assert settled.status()["stale"] == {"queries/birds": ["the task's queries changed"]}
    settled.materialize(["queries/birds"])
    assert agreed(settled) == {"scores/rds/birds": ["queries/birds has a new data version"]}
    settled.rds("run")
    assert agreed(settled) == {}
    made = {key for key, run in settled.made_by().items() if run != before[key]}
    assert made == {"queries/birds", "scores/rds/birds", "mixtures/best", "exports/best", "reports/best"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_changed_budget_unsyncs_only_its_mixture_and_no_model_is_loaded(settled):
    before = settled.made_by()
    defs = settled.project / "assets" / "mixtures" / "adding_only" / "defs.yaml"
    said = json.loads(defs.read_text())
    said["attributes"]["budget"] -= 1
    defs.write_text(json.dumps(said))
    settled.reload()
    assert agreed(settled) == {"mixtures/adding_only": ["has a new code version"]}
    assert "loaded: []\n" in settled.rds("run").stderr
    assert agreed(settled) == {}
    made = {key for key, run in settled.made_by().items() if run != before[key]}
    assert made == {"mixtures/adding_only", "exports/adding_only", "reports/adding_only"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_new_mixture_is_among_the_unsynced_because_it_was_never_materialized(settled):
    defs = settled.project / "assets" / "mixtures" / "two" / "defs.yaml"
    defs.parent.mkdir()
    defs.write_text(json.dumps({"type": "rds_dagster.components.Mixture", "attributes": {"name": "two", "budget": 2}}))
    settled.reload()
    assert agreed(settled) == {key: ["never materialized"] for key in ("mixtures/two", "exports/two", "reports/two")}
