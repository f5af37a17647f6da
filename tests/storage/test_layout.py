from rds_dagster.storage.layout import Layout


def test_the_home_is_beside_the_project_unless_rds_home_names_another(tmp_path, monkeypatch):
    monkeypatch.delenv("RDS_HOME", raising=False)
    assert Layout.of_project(tmp_path).home == tmp_path / ".rds"
    monkeypatch.setenv("RDS_HOME", f"{tmp_path}/x/../else")
    assert Layout.of_project(tmp_path).home == tmp_path / "else"
