"""The watcher on a real project and its real Dagster instance; the clock and the ticks are the tests'."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData

from rds_dagster.components.automation import REFRESH
from rds_dagster.components.watching import (
    CHECK_AGAIN,
    LOOK_AT_STORES,
    QUIET_S,
    RETRY_S,
    WATCH,
    WatchCursor,
    checks_to_run_again,
    watch,
    watched_files,
    watchers,
)
from rds_dagster.embeddings.settings import EncoderSettings, WhitenSettings
from rds_dagster.pools import files
from rds_dagster.pools.look import record_pool
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.runs.instance import open_instance
from rds_dagster.runs.loading import LoadedProject, load_project
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore

SHORT = {"name": "short", "type": "expect_column_values_to_be_between", "kwargs": {"column": "num_messages", "max_value": 1}}


@dataclass
class Watcher:
    """The watcher of a project, ticked by hand."""

    folder: Path
    project: LoadedProject
    instance: dg.DagsterInstance
    cursor: WatchCursor = field(default_factory=WatchCursor)
    now_s: float = field(default_factory=lambda: time.time() + 100)

    @property
    def layout(self) -> Layout:
        return self.project.layout

    @property
    def towns(self) -> Path:
        return self.folder / "data" / "towns.jsonl"

    def tick(self, after_s: float = 15) -> list[str]:
        """What one tick asks for; ``waiting`` says why others are left."""
        self.now_s += after_s
        pools, tasks = [pool.settings for pool in self.project.pools], [task.settings for task in self.project.tasks]
        watched = watched_files(pools, tasks, self.project.corpus.encoder_settings)
        wanted, self.waiting, after = watch(watched, self.instance, self.folder, self.layout, self.cursor, now_s=self.now_s)
        said = json.loads(json.dumps(vars(after)))  # as the sensor keeps it
        self.cursor = WatchCursor(said["seen"], said["known"], {key: (state, made) for key, (state, made) in said["asked"].items()})
        return wanted

    def sensor(self, name: str) -> dg.SensorDefinition:
        return self.project.repository.get_sensor_def(name)

    def ask_sensor(self, name: str, cursor: str | None = None) -> dg.SensorResult:
        context = dg.build_sensor_context(self.instance, cursor=cursor, repository_def=self.project.repository)
        return self.sensor(name)(context)

    def run(self, *keys: str) -> dg.DagsterRun:
        job = self.project.repository.get_implicit_global_asset_job_def()
        done = job.execute_in_process(instance=self.instance, asset_selection=[dg.AssetKey(key.split("/")) for key in keys], raise_on_error=False)
        return done.dagster_run

    def switch_on(self) -> None:
        """What pressing the switch of refresh_stale in the UI leaves in the instance."""
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("rds_dagster"), "__repository__"), REFRESH)
        self.instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData()))


@pytest.fixture
def watcher(own_project: Path) -> Iterator[Watcher]:
    """A project that is up to date, also in its files' times, watched for two ticks."""
    project = load_project(own_project)
    for pool in project.pools:
        record_pool(TableStore(project.layout), pool.settings, root=own_project)
    with open_instance(project.layout) as instance:
        found = Watcher(own_project, project, instance)
        assert [found.tick(), found.tick()] == [[], []]
        yield found


def write(path: Path, text: str, *, at_s: float) -> None:
    """Write a file at a time of the test's clock."""
    path.write_text(text)
    os.utime(path, (at_s, at_s))


def ask(n: int) -> str:
    return json.dumps({"messages": [{"role": "user", "content": f"Where is town {n}?"}, {"role": "assistant", "content": f"North of {n}."}]}) + "\n"


def edit(defs: Path, **attributes: object) -> None:
    said = yaml.safe_load(defs.read_text())
    said["attributes"] = {name: value for name, value in {**said["attributes"], **attributes}.items() if value is not None}
    defs.write_text(yaml.safe_dump(said, sort_keys=False))


def test_a_changed_file_is_asked_for_once_it_came_to_rest_and_no_more_once_it_is_recorded(watcher):
    write(watcher.towns, ask(1), at_s=watcher.now_s)
    assert watcher.tick() == []
    assert "left until it looks the same at two ticks" in watcher.waiting["raw/towns"]
    assert watcher.tick() == ["raw/towns"]
    assert watcher.tick() == ["raw/towns"], "nobody has run it yet; the run key is the same, so dagster starts it once"
    watcher.run("raw/towns")
    assert watcher.tick() == []
    assert watcher.waiting == {}


def test_a_file_that_still_grows_is_left_alone(watcher):
    for n in range(1, 5):
        write(watcher.towns, ask(1) * n, at_s=watcher.now_s)
        assert watcher.tick() == []
    assert watcher.tick() == ["raw/towns"]


def test_a_file_written_a_moment_ago_is_left_for_the_next_tick_even_if_it_looks_the_same(watcher):
    write(watcher.towns, ask(1), at_s=watcher.now_s + 20)
    assert watcher.tick() == []
    assert watcher.tick(after_s=QUIET_S + 1) == []
    assert "a file was written 1 s ago, and may still be growing" in watcher.waiting["raw/towns"]
    assert watcher.tick(after_s=QUIET_S) == ["raw/towns"]


def test_the_watcher_reads_no_content(watcher, monkeypatch):
    def refuse(address: str) -> None:
        raise AssertionError(f"{address} was opened")

    monkeypatch.setattr(files, "open_bytes", refuse)
    write(watcher.towns, ask(1), at_s=watcher.now_s)
    watcher.tick()
    assert watcher.tick() == ["raw/towns"]


def test_files_that_are_gone_are_asked_for_as_well_so_that_the_asset_says_so(watcher):
    watcher.towns.unlink()
    watcher.tick()
    assert watcher.tick() == ["raw/towns"]
    assert watcher.run("raw/towns").is_failure


def test_the_same_files_are_asked_for_again_only_a_while_after_their_run_failed_but_other_files_at_once(watcher):
    watcher.towns.unlink()
    watcher.tick()
    watcher.tick()
    run = watcher.run("raw/towns")
    ended = watcher.instance.get_run_record_by_id(run.run_id).end_time
    watcher.now_s = ended
    assert watcher.tick() == []
    assert f"run {run.run_id[:8]} on the same files failed 15 s ago" in watcher.waiting["raw/towns"]
    write(watcher.towns, ask(1), at_s=watcher.now_s)
    watcher.tick()
    assert watcher.tick() == ["raw/towns"]

    watcher.towns.unlink()
    watcher.tick()
    assert watcher.tick() == ["raw/towns"]
    again = watcher.run("raw/towns")
    watcher.now_s = watcher.instance.get_run_record_by_id(again.run_id).end_time
    assert watcher.tick(after_s=RETRY_S - 1) == []
    assert watcher.tick(after_s=2) == ["raw/towns"]


def test_the_run_key_is_another_one_after_each_run_so_that_a_file_that_comes_back_is_looked_at(watcher):
    """Added, removed and added again: dagster never starts a run of a key that it has seen."""
    more, keys, cursor = watcher.folder / "data" / "towns.jsonl", [], None
    before, with_more = more.read_text(), more.read_text() + ask(1)
    old = time.time() - 1000
    inode = more.stat().st_ino
    for text in (with_more, before, with_more):
        write(more, text, at_s=old)
        for _ in range(2):
            result = watcher.ask_sensor(WATCH, cursor)
            cursor = result.cursor
        (request,) = result.run_requests
        assert [key.to_user_string() for key in request.asset_selection] == ["raw/towns"]
        assert watcher.ask_sensor(WATCH, cursor).run_requests[0].run_key == request.run_key, "the same request until it is run"
        keys.append(request.run_key)
        watcher.run("raw/towns")
    assert more.stat().st_ino == inode
    assert len(set(keys)) == 3


def test_an_asset_that_was_never_made_is_not_the_watchers(watcher):
    watcher.instance.wipe_assets([dg.AssetKey(["raw", "towns"])])
    write(watcher.towns, ask(1), at_s=watcher.now_s)
    assert [watcher.tick(), watcher.tick()] == [[], []]


def test_queries_wait_for_the_switch_since_they_run_the_encoder(watcher):
    queries = watcher.folder / "data" / "adding.jsonl"
    write(queries, queries.read_text() + ask(7).replace("{", '{"id": "a7", ', 1), at_s=watcher.now_s)
    assert [watcher.tick(), watcher.tick()] == [[], []]
    assert watcher.waiting == {"queries/adding": f"it changed, and {REFRESH} is off"}
    watcher.switch_on()
    assert watcher.tick() == ["queries/adding"]
    watcher.run("queries/adding")
    assert [watcher.tick(), watcher.tick()] == [[], []], "it was made since it was asked for"


def test_a_mended_check_is_run_again_and_one_that_still_promises_the_same_is_not(watcher):
    defs = watcher.folder / "assets" / "pools" / "towns" / "defs.yaml"
    key = dg.AssetCheckKey(dg.AssetKey(["clean", "towns"]), "short")
    edit(defs, checks=[SHORT])
    watcher.project = load_project(watcher.folder)
    watcher.run("clean/towns", "provenance/towns")
    assert checks_to_run_again(watcher.project.repository, watcher.instance) == {}, "it failed, and would fail again"

    edit(defs, checks=[{**SHORT, "kwargs": {"column": "num_messages", "max_value": 9}}])
    watcher.project = load_project(watcher.folder)
    assert set(checks_to_run_again(watcher.project.repository, watcher.instance)) == {key}
    assert watcher.ask_sensor(CHECK_AGAIN).skip_reason.skip_message == f"{REFRESH} is off"
    watcher.switch_on()
    (request,) = watcher.ask_sensor(CHECK_AGAIN).run_requests
    assert (request.asset_selection, request.asset_check_keys) == ([], [key])
    assert watcher.ask_sensor(CHECK_AGAIN).run_requests[0].run_key == request.run_key, "it is tried once"


def test_a_check_that_a_killed_run_left_out_is_run(watcher):
    """The asset was made, and the check never saw it."""
    made = watcher.instance.get_asset_records([dg.AssetKey(["clean", "towns"])])[0].asset_entry.last_materialization
    version = made.tags["dagster/data_version"]
    watcher.instance.report_runless_asset_event(dg.AssetMaterialization(["clean", "towns"], tags={"dagster/data_version": version}))
    found = checks_to_run_again(watcher.project.repository, watcher.instance)
    assert {key.asset_key.to_user_string() for key in found} == {"clean/towns"}


def test_object_stores_are_looked_at_by_a_schedule_that_is_off_by_default():
    remote = watchers([PoolSettings("far", ("s3://bucket/far", "data/more.jsonl"))], [TaskSettings("near", "data/near.jsonl")], EncoderSettings())
    (schedule,) = remote.schedules
    assert (schedule.name, schedule.default_status.value) == (LOOK_AT_STORES, "STOPPED")
    near = watchers([PoolSettings("near", "data/near.jsonl")], [], EncoderSettings())
    assert list(near.schedules) == []


def test_what_is_watched_is_what_lies_on_this_machine():
    watched = watched_files(
        [PoolSettings("far", "hf://datasets/far"), PoolSettings("near", "data/near.jsonl")],
        [TaskSettings("sums", "data/sums.jsonl", "data/sums.test.jsonl")],
        EncoderSettings(whiten=WhitenSettings(8)),
    )
    assert {one.key for one in watched} == {"raw/near", "queries/sums", "test_items/sums", "encoders/tiny", "whitening/tiny"}
