"""The condition on a small graph of three assets, whose contents and failures the tests decide; then that every asset of a project carries it."""

import datetime
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import dagster as dg
import pytest

from rds_dagster.components.automation import REFRESH, automated, between
from rds_dagster.components.resources import Project, hold_project
from rds_dagster.runs.loading import load_project
from rds_dagster.storage.layout import Layout

NOON = datetime.datetime(2026, 1, 1, 12, 0, 30, tzinfo=datetime.UTC)

HOLDER = """
import sys, time
from pathlib import Path
from rds_dagster.components.resources import hold_project
from rds_dagster.storage.layout import Layout
with hold_project(Layout(Path(sys.argv[1])), 1.0):
    print("held", flush=True)
    time.sleep(3)
"""


@dataclass
class World:
    """pool -> embedding -> mixture, and what the daemon does with them: `tick` evaluates, `settle` also runs what is asked for until nothing is."""

    instance: dg.DagsterInstance
    content: dict[str, str] = field(default_factory=lambda: {"pool": "1", "embedding": "1", "mixture": "1"})
    code: dict[str, str] = field(default_factory=lambda: {"pool": "1", "embedding": "1", "mixture": "1"})
    failing: set[str] = field(default_factory=set)
    is_fit: bool = True
    meanwhile: Callable[[], None] | None = None
    cursor: object = None
    made: list[str] = field(default_factory=list)

    def definitions(self) -> dg.Definitions:
        return automated(
            dg.Definitions(assets=[self._asset("pool"), self._asset("embedding", "pool"), self._asset("mixture", "embedding")], asset_checks=[self._check()])
        )

    def tick(self, at: datetime.datetime = NOON) -> set[str]:
        """The keys that one evaluation asks for."""
        result = dg.evaluate_automation_conditions(self.definitions(), self.instance, cursor=self.cursor, evaluation_time=at)
        self.cursor = result.cursor
        return {subset.key.to_user_string() for subset in result._requested_subsets if not subset.is_empty}

    def run(self, *keys: str) -> None:
        job = self.definitions().resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=self.instance, asset_selection=[dg.AssetKey(key) for key in keys], raise_on_error=False)

    def check_again(self) -> None:
        job = self.definitions().resolve_implicit_global_asset_job_def()
        job.get_subset(asset_check_selection={dg.AssetCheckKey(dg.AssetKey("pool"), "fit")}).execute_in_process(instance=self.instance, raise_on_error=False)

    def settle(self) -> list[str]:
        """Everything made, in order, until a tick asks for nothing."""
        self.made.clear()
        for _ in range(10):
            wanted = self.tick()
            if not wanted:
                return list(self.made)
            self.run(*wanted)
        raise AssertionError(f"it does not come to rest: {self.made}")

    def _asset(self, name: str, *deps: str) -> dg.AssetsDefinition:
        @dg.asset(name=name, deps=list(deps), code_version=self.code[name])
        def made() -> dg.MaterializeResult:
            content = self.content[name]
            if name == "embedding" and self.meanwhile:
                meanwhile, self.meanwhile = self.meanwhile, None
                meanwhile()
            if name in self.failing:
                raise RuntimeError("broken on purpose")
            self.made.append(name)
            return dg.MaterializeResult(data_version=dg.DataVersion(content))

        return made

    def _check(self) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset="pool", blocking=True)
        def fit() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=self.is_fit)

        return fit


@pytest.fixture
def world() -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance)


@pytest.fixture
def settled(world: World) -> World:
    world.settle()
    return world


def test_what_automation_has_never_seen_is_made_once(world):
    assert world.tick() == {"pool"}, "what stands below a blocking check waits for it"
    world.run("pool")
    assert world.tick() == {"embedding", "mixture"}
    world.run("embedding", "mixture")
    assert world.settle() == [], "an input that changed in the same run does not count again"


def test_a_change_goes_down_stage_by_stage_and_each_is_made_once(settled):
    settled.content |= {"pool": "2", "embedding": "2"}
    settled.made.clear()
    settled.run("pool")
    assert settled.tick() == {"embedding"}
    settled.run("embedding")
    assert settled.tick() == {"mixture"}
    settled.run("mixture")
    assert settled.tick() == set()
    assert settled.made == ["pool", "embedding", "mixture"]


def test_equal_content_stops_the_wave(settled):
    settled.run("pool")
    assert settled.settle() == []
    settled.content["pool"] = "2"
    settled.run("pool")
    assert settled.settle() == ["embedding"], "whose content is what it was"


def test_an_input_that_changes_while_a_run_reads_the_old_one_is_not_lost(settled):
    """The run began before and ends after the change, with a tick in between: dagster's since_last_handled would take it for handled."""

    def grow() -> None:
        settled.content["pool"] = "3"
        settled.run("pool")
        assert settled.tick() == set(), "embedding is being made"

    settled.content["pool"] = "2"
    settled.run("pool")
    settled.meanwhile = grow
    assert settled.tick() == {"embedding"}
    settled.run("embedding")
    assert "embedding" in settled.settle()
    assert settled.settle() == []


def test_another_code_version_makes_the_asset_and_what_follows_from_it(settled):
    settled.code["embedding"] = "2"
    settled.content["embedding"] = "2"
    assert settled.settle() == ["embedding", "mixture"]


def test_what_changed_while_automation_was_off_is_caught_up_with(settled):
    for content in ("2", "3"):
        settled.content |= {"pool": content, "embedding": content}
        settled.run("pool")
    assert settled.settle() == ["embedding", "mixture"]


def test_a_failing_blocking_check_stops_the_wave_and_once_it_passes_the_wave_goes_on(settled):
    settled.is_fit = False
    settled.content["pool"] = "2"
    settled.run("pool")
    assert settled.settle() == []
    settled.is_fit = True
    settled.check_again()
    assert settled.settle() == ["embedding"]


def test_what_failed_is_tried_again_once_an_hour_and_not_before(settled):
    settled.failing.add("embedding")
    settled.content["pool"] = "2"
    settled.run("pool")
    assert settled.tick(NOON) == {"embedding"}
    settled.run("embedding")
    minutes = [NOON + datetime.timedelta(minutes=minute) for minute in range(1, 61)]
    assert [at.minute for at in minutes if settled.tick(at)] == [7]
    settled.failing.clear()
    settled.made.clear()
    settled.run("embedding")
    assert settled.made == ["embedding"]
    assert [at for at in minutes if settled.tick(at + datetime.timedelta(hours=1))] == []


def test_every_asset_of_a_project_carries_the_condition_and_nothing_runs_by_itself_until_the_switch(own_project):
    project = load_project(own_project)
    labels = {project.graph.get(key).automation_condition.get_label() for key in project.graph.materializable_asset_keys}
    assert labels == {"when_inputs_change"}
    statuses = {sensor.name: sensor.default_status.value for sensor in project.repository.sensor_defs}
    assert statuses == {REFRESH: "STOPPED", "watch_files": "RUNNING", "check_again": "RUNNING"}


def test_what_lies_between_the_inputs_of_a_mixture_is_unique_and_embeddings(own_project):
    """Unique stands above the scores that a mixture reads beside it."""
    nodes = load_project(own_project).graph
    above = {key: nodes.get(key).parent_keys for key in nodes.materializable_asset_keys}
    found = {key: {up.to_user_string() for up in between(above, dg.AssetKey(key.split("/")))} for key in ("mixtures/best", "mixtures/by_chance", "clean/sums")}
    assert found == {
        "mixtures/best": {f"{stage}/{pool}" for stage in ("embeddings", "unique") for pool in ("sums", "towns", "chat")},
        "mixtures/by_chance": set(),
        "clean/sums": set(),
    }


def diamond(content: dict[str, str]) -> dg.Definitions:
    """pool -> vectors -> scores -> mixtures, and pool -> mixtures; all have the content of the pool, and ``code`` is that of mixtures and pool."""

    def asset(name: str, *deps: str) -> dg.AssetsDefinition:
        @dg.asset(name=name, deps=list(deps), code_version=content["code"] if name in ("pool", "mixtures") else "1")
        def made() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(content["pool"]))

        return made

    return automated(dg.Definitions(assets=[asset("pool"), asset("vectors", "pool"), asset("scores", "vectors"), asset("mixtures", "pool", "scores")]))


@pytest.mark.parametrize("change", ["content", "code"])
def test_an_asset_waits_until_its_inputs_fit_one_another(change):
    """The mixture reads the pool and the scores of the pool's vectors; also where it has a reason of its own to be made at once."""
    content, cursor, order = {"pool": "1", "code": "1"}, None, []
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(8):
            defs = diamond(content)
            result = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
            cursor = result.cursor
            wanted = [subset.key for subset in result._requested_subsets if not subset.is_empty]
            order.append({key.to_user_string() for key in wanted})
            if not wanted and content["pool"] == "1":
                content |= {"pool": "2"} if change == "content" else {"pool": "2", "code": "2"}
                wanted, defs = ([dg.AssetKey("pool")] if change == "content" else []), diamond(content)
            if wanted:
                defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, asset_selection=wanted)
    after = order[order.index(set()) + 1 :]
    wave = [{"vectors"}, {"scores", "mixtures"}]
    assert after[: len(after) - after.count(set())] == (wave if change == "content" else [{"pool"}, *wave]), (
        "the mixture together with its last input, in order"
    )
    assert after[-1] == set()


def test_a_condition_that_an_asset_has_of_its_own_stays():
    @dg.asset(automation_condition=dg.AutomationCondition.on_cron("@daily").with_label("daily"))
    def mine() -> None: ...

    graph = automated(dg.Definitions(assets=[mine])).resolve_asset_graph()
    assert graph.get(dg.AssetKey("mine")).automation_condition.get_label() == "daily"


def materialize_one(layout: Layout) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    seen: list[str] = []

    @dg.asset
    def one(project: Project) -> None:
        with pytest.raises(Exception, match=f"the project state {project.layout.home} is held by process"), hold_project(project.layout, 0.0):
            seen.append("not reached")
        seen.append("made")

    return dg.materialize([one], resources={"project": Project(folder=str(layout.home.parent), home=str(layout.home))}), seen


def test_a_run_holds_the_project_until_it_ends(tmp_path):
    layout = Layout(tmp_path / ".rds")
    result, seen = materialize_one(layout)
    assert result.success
    assert seen == ["made"]
    with hold_project(layout, 0.0):
        assert materialize_one(layout)[1] == ["made"], "a run under the lock of its own process goes on"


def test_a_run_waits_for_the_project_and_says_for_whom(tmp_path, start_process, monkeypatch, capfd):
    monkeypatch.setattr("rds_dagster.components.resources.TELL_S", 0.5)
    project = Project(folder=str(tmp_path), home=str(tmp_path / ".rds"))
    holder: subprocess.Popen[str] = start_process(HOLDER, project.home)
    with project.yield_for_execution(dg.build_init_resource_context()) as ready:
        assert ready is project
        assert holder.wait(timeout=60) == 0, "it had let go"
    assert f"This run waits: the project state {project.home} is held by process {holder.pid}" in capfd.readouterr().err
