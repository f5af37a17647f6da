"""The shape of the demo project, held still: which assets there are, what each depends on, in which group, under which checks."""

import difflib
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from rds_dagster.runs.loading import LoadedProject, load_project

ROOT = Path(__file__).parents[1]
SNAPSHOT = Path(__file__).parent / "snapshots" / "definitions.txt"
RENEW = "RDS_RENEW_SNAPSHOTS"
LATE = ("torch", "transformers", "great_expectations", "lancedb", "matplotlib", "moto", "s3fs")


@pytest.fixture
def demo(at_hand, tmp_path, monkeypatch) -> LoadedProject:
    with at_hand(ROOT):
        monkeypatch.setenv("RDS_HOME", str(tmp_path / "home"))
        return load_project(ROOT)


def picture(project: LoadedProject) -> str:
    """One block an asset: key, group; below it what it depends on (<) and its checks (!)."""
    lines = []
    for key in sorted(project.graph.materializable_asset_keys):
        node = project.graph.get(key)
        lines.append(f"{key.to_user_string()}  (group {node.group_name})")
        lines += [f"    < {parent.to_user_string()}" for parent in sorted(node.parent_keys)]
        checks = sorted((check for check in project.graph.asset_check_keys if check.asset_key == key), key=lambda check: check.name)
        lines += [f"    ! {check.name}{' (blocking)' if project.graph.get(check).blocking else ''}" for check in checks]
    lines += ["", *(f"job {name}" for name in sorted(project.repository.job_names) if not name.startswith("__"))]
    lines += [f"sensor {sensor.name} ({sensor.default_status.value})" for sensor in sorted(project.repository.sensor_defs, key=lambda sensor: sensor.name)]
    return "\n".join(lines) + "\n"


def test_the_demos_assets_dependencies_groups_and_checks_are_those_of_the_snapshot(demo):
    now = picture(demo)
    if os.environ.get(RENEW):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(now)
    before = SNAPSHOT.read_text()
    changes = "\n".join(difflib.unified_diff(before.splitlines(), now.splitlines(), "snapshot", "now", lineterm="", n=1))
    assert now == before, f"the definitions changed:\n{changes}\nIf that is meant, renew the snapshot: {RENEW}=1 pytest {Path(__file__).relative_to(ROOT)}"


def test_each_assets_group_is_the_first_part_of_its_key(demo):
    for key in demo.graph.materializable_asset_keys:
        assert demo.graph.get(key).group_name == key.path[0]


def test_every_asset_says_what_one_row_is_and_has_a_code_version(demo):
    for key in demo.graph.materializable_asset_keys:
        node = demo.graph.get(key)
        assert node.description, key
        assert node.code_version, key


def test_code_versions_do_not_depend_on_the_process(demo):
    """Else everything is stale in every new process (Python's own hash is salted)."""
    script = (
        "from pathlib import Path\nfrom rds_dagster.runs.loading import load_project\n"
        f"graph = load_project(Path({str(ROOT)!r})).graph\n"
        "print(*(f'{key.to_user_string()} {graph.get(key).code_version}' for key in sorted(graph.materializable_asset_keys)), sep='\\n')"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    here = [f"{key.to_user_string()} {demo.graph.get(key).code_version}" for key in sorted(demo.graph.materializable_asset_keys)]
    assert said.stdout.splitlines() == here


def test_every_check_says_its_promise(demo):
    for key in demo.graph.asset_check_keys:
        assert demo.graph.get(key).description, key


def test_runs_are_executed_in_process(demo):
    assert demo.repository.get_job("main").executor_def.name == dg.in_process_executor.name


def test_loading_definitions_imports_no_heavy_library(tmp_path):
    """They are loaded by every command, by every code server, and again at each "Reload definitions"."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom rds_dagster.runs.loading import load_project\n"
        f"load_project(Path({str(ROOT)!r}))\nprint([name for name in {LATE} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "RDS_HOME": str(tmp_path)})
    assert said.stdout == "[]\n"


def test_definitions_outside_of_the_commands_warn_of_a_temporary_instance(at_hand, caplog):
    from rds_dagster import definitions

    with at_hand(ROOT):
        definitions.defs()
    assert "DAGSTER_HOME is not set: a temporary instance forgets its history on exit; start the UI with `rds ui`" in caplog.text
