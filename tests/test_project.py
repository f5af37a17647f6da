import os
import subprocess
import sys
from pathlib import Path

import pytest

from rds_dagster.errors import SettingsError
from rds_dagster.project import import_assets, project_folder


def make_project(folder: Path, *, pyproject: str = "[tool.dg]\n", name: str = "") -> Path:
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "__init__.py").write_text(f"NAME = {name or folder.name!r}\n")
    (folder / "pyproject.toml").write_text(pyproject)
    return folder


@pytest.fixture(autouse=True)
def unnamed(monkeypatch):
    monkeypatch.delenv("RDS_PROJECT", raising=False)


def test_the_nearest_folder_upwards_that_is_a_project_is_it(tmp_path, monkeypatch):
    outer, inner = make_project(tmp_path / "outer"), make_project(tmp_path / "outer" / "data" / "inner")
    below = outer / "data" / "more"
    below.mkdir()
    for here, expected in ((outer, outer), (below, outer), (inner, inner), (inner / "assets", inner)):
        monkeypatch.chdir(here)
        assert project_folder() == expected


def test_rds_project_names_it_and_nothing_else_is_looked_at(tmp_path, monkeypatch):
    here, named = make_project(tmp_path / "here"), make_project(tmp_path / "named")
    monkeypatch.chdir(here)
    monkeypatch.setenv("RDS_PROJECT", "../named")
    assert project_folder() == named
    monkeypatch.setenv("RDS_PROJECT", str(named / "assets"))
    with pytest.raises(SettingsError, match=rf"RDS_PROJECT names {named}/assets, which hold no project: expected a pyproject.toml with \[tool.dg\]"):
        project_folder()


@pytest.mark.parametrize("pyproject", ["[tool.ruff]\n", ""])
def test_a_pyproject_of_another_kind_makes_no_project(pyproject, tmp_path, monkeypatch):
    folder = make_project(tmp_path / "x", pyproject=pyproject)
    monkeypatch.setenv("RDS_PROJECT", str(folder))
    with pytest.raises(SettingsError, match="hold no project"):
        project_folder()


def test_a_folder_without_assets_is_no_project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[tool.dg]\n")
    monkeypatch.setenv("RDS_PROJECT", str(tmp_path))
    with pytest.raises(SettingsError, match="and a folder assets/"):
        project_folder()


def test_a_pyproject_that_is_no_toml_is_named(tmp_path, monkeypatch):
    folder = make_project(tmp_path / "x", pyproject="[tool.dg\n")
    monkeypatch.chdir(folder)
    with pytest.raises(SettingsError, match=rf"{folder}/pyproject.toml is not valid TOML: "):
        project_folder()


def test_assets_of_the_project_are_imported(tmp_path, at_hand):
    folder = make_project(tmp_path / "mine")
    with at_hand(folder):
        import_assets(folder)
        assert sys.modules["assets"].NAME == "mine"
        assert sys.path[0] == str(folder)


def test_assets_may_be_a_link_to_another_folder(tmp_path, at_hand):
    elsewhere = make_project(tmp_path / "elsewhere")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "assets").symlink_to(elsewhere / "assets")
    with at_hand(folder):
        import_assets(folder)
        assert sys.modules["assets"].NAME == "elsewhere"


def import_in_a_process(folder: Path, *, first_on_the_path: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"""{before}
from pathlib import Path
from rds_dagster.errors import SettingsError
from rds_dagster.project import import_assets
try:
    import_assets(Path({str(folder)!r}))
except SettingsError as error:
    print(f"refused: {{error}}")
else:
    import assets
    print(f"imported: {{assets.NAME}}")
"""
    environment = {**os.environ, "PYTHONPATH": str(first_on_the_path)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=folder.parent)


def test_another_project_that_is_imported_already_is_refused_with_both_names(tmp_path):
    mine, other = make_project(tmp_path / "mine"), make_project(tmp_path / "other")
    said = import_in_a_process(mine, first_on_the_path=other, before="import assets").stdout
    assert said.startswith(f"refused: the project is {mine}, but the package `assets` was loaded from {other}/assets: another project comes first on the path.")
    assert "unset PYTHONPATH" in said


def test_another_project_on_the_path_is_passed_over_while_none_is_imported(tmp_path):
    mine, other = make_project(tmp_path / "mine"), make_project(tmp_path / "other")
    assert import_in_a_process(mine, first_on_the_path=other).stdout == "imported: mine\n"


def test_a_project_whose_assets_are_no_package_does_not_take_anothers(tmp_path):
    mine, other = make_project(tmp_path / "mine"), make_project(tmp_path / "other")
    (mine / "assets" / "__init__.py").unlink()
    said = import_in_a_process(mine, first_on_the_path=other).stdout
    assert said.startswith(f"refused: the project is {mine}")
    assert f"Add {mine}/assets/__init__.py if it is missing" in said
