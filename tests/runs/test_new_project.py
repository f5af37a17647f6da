import tomllib
from pathlib import Path

import pytest
import yaml

from rds_dagster.errors import SettingsError
from rds_dagster.runs.loading import load_project
from rds_dagster.runs.new_project import make_project, project_assets, sql_models
from rds_dagster.runs.walk import run_stale

ROOT = Path(__file__).parents[2]


def test_the_repositorys_assets_are_what_a_new_project_with_the_demo_gets():
    written = project_assets(with_demo=True)
    there = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "assets").rglob("*.yaml")}
    assert there == written


def test_the_repositorys_sql_models_are_what_a_new_project_gets():
    there = {path.relative_to(ROOT / "dbt_like_sql").as_posix(): path.read_text() for path in (ROOT / "dbt_like_sql").rglob("*.sql")}
    assert there == sql_models()
    assert set(there) == {"reports/composition.sql", "reports/overlap.sql", "reports/score_distribution.sql"}


def test_the_repositorys_dg_settings_are_those_of_a_new_project(tmp_path):
    make_project(tmp_path / "mine")
    mine, root = (tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["dg"] for folder in (tmp_path / "mine", ROOT))
    assert mine == root
    assert yaml.safe_load((tmp_path / "mine" / "workspace.yaml").read_text()) == yaml.safe_load((ROOT / "workspace.yaml").read_text())


@pytest.mark.parametrize("with_demo", [False, True])
def test_a_new_project_loads(with_demo, tmp_path, at_hand):
    make_project(tmp_path / "mine", with_demo=with_demo)
    with at_hand(tmp_path / "mine"):
        project = load_project(tmp_path / "mine")
    assert len(project.pools) == (6 if with_demo else 0)
    assert len(project.tasks) == len(project.mixtures) == (3 if with_demo else 0)


def test_a_new_project_runs_before_it_has_a_pool_and_leaves_out_what_has_nothing_to_unite(tmp_path, at_hand):
    make_project(tmp_path / "mine")
    with at_hand(tmp_path / "mine"):
        result = run_stale(tmp_path / "mine", None, lambda line: None)
        assert find_keys(tmp_path / "mine") == ["encoders/tiny"]
    assert result.is_success and result.made == ["encoders/tiny"]


def find_keys(folder):
    return sorted(key.to_user_string() for key in load_project(folder).graph.materializable_asset_keys)


@pytest.mark.parametrize(("folder", "name"), [("mine", "mine"), ("My Selection!", "my_selection"), ("+", "selection")])
def test_the_name_of_a_project_comes_from_its_folder(folder, name, tmp_path):
    make_project(tmp_path / folder)
    assert tomllib.loads((tmp_path / folder / "pyproject.toml").read_text())["project"]["name"] == name
    assert (tmp_path / folder / "README.md").read_text().startswith(f"# {name}\n")


def test_state_and_data_of_a_new_project_stay_out_of_git(tmp_path):
    make_project(tmp_path / "mine")
    assert {".rds/", "demo_data/", "data/"} <= set((tmp_path / "mine" / ".gitignore").read_text().split())


def test_a_folder_that_holds_anything_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match=f"{tmp_path} is not empty; give a new folder, or remove what is in it"):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_will_do(tmp_path):
    make_project(tmp_path)
    assert (tmp_path / "assets" / "corpus" / "defs.yaml").is_file()
