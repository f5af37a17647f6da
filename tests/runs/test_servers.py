import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from rds_dagster.errors import BusyError, SettingsError, StateError
from rds_dagster.runs.servers import run_ui, usable_port
from rds_dagster.runs.webserver import load_error, switch_on
from rds_dagster.storage.layout import Layout

UI = """
import sys
from pathlib import Path
from rds_dagster.errors import RdsError
from rds_dagster.runs.servers import run_ui
from rds_dagster.storage.layout import Layout

folder = Path(sys.argv[1])
sys.exit(run_ui(folder, Layout.of_project(folder), port=int(sys.argv[2]), auto=sys.argv[3] == "auto", say=lambda line: print(line, flush=True)))
"""
SLOW_ASSET = """
import time
from pathlib import Path

import dagster as dg

@dg.asset(automation_condition=dg.AutomationCondition.on_cron("0 0 1 1 *"))  # else automation would make it by itself
def slow():
    Path(__file__).with_name("running").touch()
    time.sleep(300)
"""
WORKSPACE = {"load_from": [{"python_module": {"module_name": "rds_dagster.definitions", "location_name": "rds_dagster", "working_directory": "."}}]}
LAUNCH = """mutation($run: ExecutionParams!) { launchPipelineExecution(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""

STATUSES = """
import sys
from pathlib import Path
from rds_dagster.runs.instance import open_instance
from rds_dagster.storage.layout import Layout
with open_instance(Layout.of_project(Path(sys.argv[1]))) as instance:
    print(*[run.status.value for run in instance.get_runs()])
"""


@dataclass
class RunningUi:
    """A real `run_ui` in a process of its own, and what it said."""

    process: subprocess.Popen[str]
    said: Path

    @property
    def address(self) -> str:
        (found,) = re.findall(r"http://127\.0\.0\.1:\d+", self.said.read_text())
        return found

    def wait_for(self, words: str, timeout_s: float = 150) -> None:
        until = time.monotonic() + timeout_s
        while words not in self.said.read_text():
            assert self.process.poll() is None, f"ended before it said {words!r}: {self.said.read_text()}"
            assert time.monotonic() < until, f"did not say {words!r} within {timeout_s} s: {self.said.read_text()}"
            time.sleep(0.1)

    def ask(self, query: str, **variables: object) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The smallest project: one slow asset."""
    monkeypatch.delenv("RDS_HOME", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")  # so that it is put back afterwards
    folder = tmp_path / "project"
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "__init__.py").touch()
    (folder / "assets" / "slow.py").write_text(SLOW_ASSET)
    (folder / "pyproject.toml").write_text('[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "assets"\ndefs_module = "assets"\n')
    (folder / "workspace.yaml").write_text(json.dumps(WORKSPACE))  # JSON is YAML
    return folder


@pytest.fixture
def start(project: Path, tmp_path: Path) -> Iterator[Callable[..., RunningUi]]:
    started: list[RunningUi] = []

    def begin(port: int = 0, mode: str = "by hand") -> RunningUi:
        said = tmp_path / f"said-{len(started)}.txt"
        environment = {name: value for name, value in os.environ.items() if name not in ("RDS_HOME", "DAGSTER_HOME", "RDS_PROJECT")}
        with said.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", UI, str(project), str(port), mode], stdout=out, stderr=subprocess.STDOUT, env=environment, text=True
            )
        started.append(RunningUi(process, said))
        return started[-1]

    yield begin
    for ui in started:
        if ui.process.poll() is None:
            family = ui.family()
            ui.process.terminate()
            ui.process.wait(timeout=60)
            for process in family:
                if process.is_running():
                    process.kill()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def launch_slow(ui: RunningUi, project: Path) -> str:
    """Launch the slow asset from the UI and wait until it runs; returns the run's id."""
    selector = {"repositoryLocationName": "rds_dagster", "repositoryName": "__repository__", "jobName": "__ASSET_JOB", "assetSelection": [{"path": ["slow"]}]}
    launched = ui.ask(LAUNCH, run={"selector": selector, "mode": "default"})["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    sign = project / "assets" / "running"
    until = time.monotonic() + 150
    while not sign.exists():
        assert time.monotonic() < until, "the launched run did not begin"
        time.sleep(0.1)
    return launched["run"]["runId"]


def run_statuses(project: Path) -> list[str]:
    """The statuses of all runs, read by a process that knows nothing of the servers."""
    return subprocess.run([sys.executable, "-c", STATUSES, str(project)], capture_output=True, text=True, check=True).stdout.split()


def test_it_serves_the_project_and_leaves_no_process_behind(start, project):
    ui = start(mode="auto")
    ui.wait_for("the Dagster UI answers on")

    with urllib.request.urlopen(ui.address, timeout=60) as page:
        assert page.status == 200
    assert ui.ask("{assetNodes{assetKey{path}}}") == {"assetNodes": [{"assetKey": {"path": ["slow"]}}]}
    sensor = {"repositoryLocationName": "rds_dagster", "repositoryName": "__repository__", "sensorName": "refresh_stale"}
    state = ui.ask("query($s: SensorSelector!){sensorOrError(sensorSelector: $s){... on Sensor{sensorState{status}}}}", s=sensor)
    assert state["sensorOrError"]["sensorState"]["status"] == "RUNNING"
    with pytest.raises(SettingsError, match="no automation sensor named 'wrong'; start without `--auto`"):
        switch_on(ui.address, "wrong")
    with pytest.raises(BusyError, match=rf"the UI of {project} is held by process {ui.process.pid}"):
        run_ui(project, Layout.of_project(project), port=0)

    launch_slow(ui, project)
    family = ui.family()
    assert len(family) >= 5  # webserver and daemon, a code server each, the run

    ui.process.send_signal(signal.SIGINT)
    assert ui.process.wait(timeout=60) == 0
    assert alive(family) == []
    assert {path.name for path in (project / ".rds" / "logs").iterdir()} == {"webserver.log", "daemon.log"}
    assert run_statuses(project) == ["CANCELED"]


@pytest.mark.slow
def test_a_killed_ui_is_cleared_away_by_the_next_and_killed_servers_are_named_and_their_run_freed(start, project):
    first = start()
    first.wait_for("the Dagster UI answers on")
    port = int(first.address.rsplit(":", 1)[1])
    left_behind = first.family()
    first.process.kill()
    first.process.wait()
    assert len(alive(left_behind)) >= 2
    with pytest.raises(SettingsError, match=rf"port {port} of 127\.0\.0\.1 cannot be used, another program listens there; name another with `--port`"):
        usable_port(port)

    second = start(port=port)
    second.wait_for("the Dagster UI answers on")
    assert alive(left_behind) == []
    run = launch_slow(second, project)
    family = second.family()
    for process in family:  # servers before the run, so that no code server lives to report it
        process.kill()
    assert second.process.wait(timeout=60) == 1
    said = second.said.read_text()
    assert re.search(r"the (webserver|daemon) ended by itself with status -9; the last lines of .*/\.rds/logs/(webserver|daemon)\.log:\n", said)
    assert f"run {run[:8]} was killed; marked as failed" in said
    assert run_statuses(project) == ["FAILURE"]
    assert alive(family) == []


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(SettingsError, match=rf"a port is a number from 0 to 65535; name another with `--port`.*port is {port}"):
        usable_port(port)


def test_a_taken_port_is_refused_before_anything_starts(project):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} of 127\.0\.0\.1 cannot be used"):
            run_ui(project, Layout.of_project(project), port=port)
    assert not (project / ".rds" / "logs").exists()
    assert usable_port(port) == port


def test_a_webserver_that_is_gone_is_named():
    address = f"http://127.0.0.1:{usable_port(0)}"
    with pytest.raises(StateError, match=rf"the webserver at {address} does not answer any more .*start `rds ui` again"):
        load_error(address)


def test_port_0_is_a_free_one():
    assert 1024 <= usable_port(0) <= 65535


def test_a_project_without_workspace_yaml_is_refused_with_the_mend(project):
    (project / "workspace.yaml").unlink()
    with pytest.raises(SettingsError, match=r"workspace\.yaml is missing.*`rds init DIR`"):
        run_ui(project, Layout.of_project(project), port=0)


def test_definitions_that_do_not_load_are_named_and_the_ui_shows_them(start, project):
    (project / "assets" / "slow.py").write_text("raise RuntimeError('broken on purpose')\n")
    ui = start()
    ui.wait_for("the definitions do not load: RuntimeError: broken on purpose (mend them, then press Reload definitions")
    with pytest.raises(SettingsError, match="automation cannot be switched on, the definitions do not load: RuntimeError: broken on purpose"):
        switch_on(ui.address, "refresh_stale")
    family = ui.family()
    ui.process.terminate()
    assert ui.process.wait(timeout=60) == 0
    assert alive(family) == []
    assert not (project / ".rds" / "locks" / "ui.servers").exists()
