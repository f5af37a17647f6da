import os
from pathlib import Path

import dagster as dg
import pytest
import yaml

from rds_dagster.errors import BusyError
from rds_dagster.runs import instance as instance_module
from rds_dagster.runs.instance import DAGSTER_YAML, open_instance, prepare_instance, project_lock
from rds_dagster.runs.orphans import LocalRunLauncher
from rds_dagster.storage.layout import Layout
from rds_dagster.telemetry import TELEMETRY_OFF, telemetry_off


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")  # so that it is put back afterwards
    for name in TELEMETRY_OFF:
        monkeypatch.setenv(name, "set before")
        monkeypatch.delenv(name)
    return Layout(tmp_path / "home")


def test_dagster_finds_the_prepared_instance_by_its_environment(layout):
    prepare_instance(layout)
    assert os.environ["DAGSTER_HOME"] == str(layout.home / "dagster")
    with dg.DagsterInstance.get() as found:
        assert found.is_persistent
        assert found.root_directory == str(layout.dagster)
        assert not found.telemetry_enabled
        assert not found.nux_enabled
        assert isinstance(found.run_launcher, LocalRunLauncher)


def test_an_opened_instance_remembers_what_an_earlier_one_was_told(layout):
    with open_instance(layout) as first:
        first.add_dynamic_partitions("kinds", ["a"])
    with open_instance(layout) as second:
        assert second.get_dynamic_partitions("kinds") == ["a"]


def test_telemetry_is_off_after_preparing(layout):
    prepare_instance(layout)
    assert {name: os.environ[name] for name in TELEMETRY_OFF} == TELEMETRY_OFF
    assert yaml.safe_load((layout.dagster / "dagster.yaml").read_text())["telemetry"] == {"enabled": False}


def test_a_variable_that_the_user_set_stands(layout, monkeypatch):
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "true")
    telemetry_off()
    assert os.environ["GX_ANALYTICS_ENABLED"] == "true"
    assert os.environ["DAGSTER_DISABLE_TELEMETRY"] == "1"


def test_an_edited_dagster_yaml_stays(layout):
    prepare_instance(layout)
    edited = DAGSTER_YAML + "retention:\n  sensor:\n    purge_after_days: 7\n"
    (layout.dagster / "dagster.yaml").write_text(edited)
    prepare_instance(layout)
    assert (layout.dagster / "dagster.yaml").read_text() == edited


def test_a_dagster_yaml_of_an_older_version_is_brought_up_to_date(layout, monkeypatch):
    older = "telemetry:\n  enabled: false\n"
    monkeypatch.setattr(instance_module, "EARLIER_DAGSTER_YAMLS", (older,))
    layout.dagster.mkdir(parents=True)
    (layout.dagster / "dagster.yaml").write_text(older)
    prepare_instance(layout)
    assert (layout.dagster / "dagster.yaml").read_text() == DAGSTER_YAML


def test_a_second_holder_of_the_project_is_told_who_has_it(layout):
    told = rf"the project state {layout.home} is held by process {os.getpid()} .*wait for it to end or stop it"
    with project_lock(layout, 0.0), pytest.raises(BusyError, match=told), project_lock(layout, 0.1):
        pytest.fail("two at once")
    with project_lock(layout, 0.0):
        assert (layout.locks / "project.lock").exists()
