"""dg, dagster and rds as processes, in three folders: the repository's root, a new project, and one below which another's `assets` lie in wait.

A process takes 3 seconds and more, so there are as few as do, and those that do not depend on one another run side by side.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from rds_dagster.runs.loading import load_project
from rds_dagster.runs.new_project import make_project

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LIST = ("dg", "list", "defs", "--json")
CHECK = ("dg", "check", "defs")
VALIDATE = ("dagster", "definitions", "validate", "-w", "workspace.yaml")
STATUS = ("rds", "status", "--json")


def run(folder: Path, *commands: tuple[str, ...], **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """Run commands in a folder, side by side; what they say on stdout and stderr together stands in ``stdout``, except for JSON."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("RDS_PROJECT", "RDS_HOME", "DAGSTER_HOME", "PYTHONPATH")}
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [str(BIN / command[0]), *command[1:]],
                    cwd=folder,
                    env={**inherited, "NO_COLOR": "1", **environment},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE if "--json" in command else subprocess.STDOUT,
                    text=True,
                )
            )
            for command in commands
        ]
        return [subprocess.CompletedProcess(process.args, process.wait(), *said) for process in started for said in [process.communicate()]]


def listed(said: subprocess.CompletedProcess[str]) -> set[str]:
    assert said.returncode == 0, said.stderr
    return {asset["asset_key"] for asset in json.loads(said.stdout)["assets"]}


@pytest.fixture(scope="module")
def scaffolded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new project, and in it a pool, a task and a mixture as `dg scaffold defs` writes them."""
    folder = tmp_path_factory.mktemp("projects") / "mine"
    make_project(folder)
    wanted = [("Pool", "pools/sums"), ("Task", "tasks/adding"), ("Mixture", "mixtures/best")]
    for said in run(folder, *(("dg", "scaffold", "defs", f"rds_dagster.components.{kind}", path) for kind, path in wanted)):
        assert said.returncode == 0, said.stdout
    return folder


def test_in_the_repositorys_root_dg_and_dagster_see_what_rds_sees(at_hand, tmp_path):
    with at_hand(ROOT):
        os.environ["RDS_HOME"] = str(tmp_path)
        keys = {key.to_user_string() for key in load_project(ROOT).graph.materializable_asset_keys}
    listing, validation = run(ROOT, LIST, VALIDATE, RDS_HOME=str(tmp_path), DAGSTER_HOME=str(tmp_path / "dagster"))
    assert listed(listing) == keys
    assert validation.returncode == 0, validation.stdout
    assert "Validation successful for code location rds_dagster." in validation.stdout


def test_what_dg_scaffolds_is_complete_and_passes_the_check(scaffolded):
    attributes = {
        path: yaml.safe_load((scaffolded / "assets" / path / "defs.yaml").read_text())["attributes"] for path in ("pools/sums", "tasks/adding", "mixtures/best")
    }
    assert attributes == {
        "pools/sums": {"name": "sums", "source": "data/sums.jsonl", "license": "unknown"},
        "tasks/adding": {"name": "adding", "queries": "data/adding.jsonl"},
        "mixtures/best": {"name": "best", "budget": 1000},
    }
    (check,) = run(scaffolded, CHECK)
    assert check.returncode == 0, check.stdout
    assert "All definitions loaded successfully." in check.stdout


@pytest.mark.slow
def test_each_project_sees_its_own_assets_whatever_comes_first_on_the_path(scaffolded):
    listing, status = run(scaffolded, LIST, STATUS, PYTHONPATH=str(ROOT))
    assert {"raw/sums", "embeddings/sums", "queries/adding", "scores/rds/adding", "mixtures/best", "reports/best"} <= listed(listing)
    assert "raw/arithmetic" not in listed(listing)
    assert json.loads(status.stdout)["project"] == str(scaffolded)
    assert "raw/arithmetic" not in json.loads(status.stdout)["stale"]


@pytest.mark.slow
def test_where_another_projects_assets_would_be_loaded_all_three_refuse(scaffolded, tmp_path):
    """A folder that is no package: python takes the next `assets` on the path."""
    folder = tmp_path / "deep" / "below" / "mine"
    make_project(folder)
    (folder / "assets" / "__init__.py").unlink()
    words = f"the project is {folder}, but the package `assets` was loaded from {scaffolded / 'assets'}: another project comes first on the path."
    check, validation, status = run(folder, CHECK, VALIDATE, STATUS, PYTHONPATH=str(scaffolded))
    assert {said.returncode for said in (check, validation)} == {1}
    assert words in check.stdout
    assert words in validation.stdout
    assert (status.returncode, status.stdout) == (2, "")
    assert status.stderr.startswith(f"SettingsError: {words}")


def test_a_misspelt_setting_fails_the_check_with_file_and_key(tmp_path):
    make_project(tmp_path / "mine")
    defs = tmp_path / "mine" / "assets" / "pools" / "sums" / "defs.yaml"
    defs.parent.mkdir(parents=True)
    defs.write_text("type: rds_dagster.components.Pool\nattributes: {name: sums, source: x, sorce: y}\n")
    (check,) = run(tmp_path / "mine", CHECK)
    assert check.returncode == 1
    assert "sorce" in check.stdout
    assert "pools/sums/defs.yaml" in check.stdout
