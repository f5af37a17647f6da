import dagster as dg
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from rds_dagster.runs.event_log import MOST_OPEN, KeptOpenEventLogStorage
from rds_dagster.runs.instance import open_instance
from rds_dagster.storage.layout import Layout


@dg.asset(check_specs=[dg.AssetCheckSpec("is_whole", asset="counted")])
def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info("counting")
    return dg.MaterializeResult(metadata={"rows": 3}, check_results=[dg.AssetCheckResult(passed=True)])


@pytest.fixture
def layout(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")  # so that it is put back afterwards
    return Layout(tmp_path / "home")


def said(storage, run_id):
    return [(entry.message, entry.dagster_event and entry.dagster_event.event_type_value) for entry in storage.get_logs_for_run(run_id)]


def test_what_it_writes_is_read_by_dagsters_own_while_it_is_open_and_the_other_way_round(layout):
    with open_instance(layout) as instance:
        ours = instance.event_log_storage
        assert isinstance(ours, KeptOpenEventLogStorage)
        own = SqliteEventLogStorage(str(layout.dagster / "history" / "runs"))
        first = dg.materialize([counted], instance=instance)
        assert len(said(ours, first.run_id)) > 8
        assert said(own, first.run_id) == said(ours, first.run_id)
        own.delete_events(first.run_id)
        assert said(ours, first.run_id) == []
        assert own.has_asset_key(dg.AssetKey("counted"))
    with open_instance(layout) as later:
        assert later.get_latest_materialization_event(dg.AssetKey("counted")) is not None


def test_only_so_many_databases_stay_open_and_none_afterwards(layout):
    with open_instance(layout) as instance:
        storage = instance.event_log_storage
        runs = [dg.materialize([counted], instance=instance).run_id for _ in range(MOST_OPEN + 1)]
        assert len(storage._open) == MOST_OPEN
        assert all(said(storage, run_id) for run_id in runs)
    assert storage._open == {}
