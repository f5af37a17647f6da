import shutil
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from rds_dagster.components.corpus import Corpus
from rds_dagster.components.mixture import Mixture
from rds_dagster.components.pool import Pool
from rds_dagster.components.resources import RESOURCE, Project
from rds_dagster.components.sql_models import SqlModels, model_assets, read_models
from rds_dagster.components.task import Task
from rds_dagster.errors import SettingsError
from rds_dagster.lineage.sql import known_keys
from rds_dagster.schema import SELECTED, UNIQUE
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.warehouse import Warehouse

pytestmark = [  # both are Dagster's own: its YAML loader, and how it builds asset checks
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
]

MODELS = Path(__file__).parents[2] / "dbt_like_sql"


def picks(numbers):
    blank = dict.fromkeys(SELECTED.names)
    rows = [{**blank, "position": i, "id": n.to_bytes(16, "big"), "pool": "alpha", "source": "alpha", "method": "random"} for i, n in enumerate(numbers, 1)]
    return pa.Table.from_pylist(rows, schema=SELECTED)


def drafted(store, key, version="1", **tables):
    draft = store.draft(key, f"recipe{version}")
    for name, table in tables.items():
        draft.write(name, table, table.schema)
    return draft.manifest(fingerprint=f"{key} {version}", settings={}, parents={}, counts=Counts(0, 0))


@pytest.fixture
def project(tmp_path):
    """Pool alpha of examples 1 to 4, mixtures one {1, 2} and two {2, 3, 4}."""
    store = TableStore(Layout(tmp_path / "home"))
    kept = pa.Table.from_pylist([{"id": n.to_bytes(16, "big"), "source": "alpha"} for n in range(1, 5)], schema=UNIQUE)
    store.commit([drafted(store, "unique/alpha", kept=kept)])
    store.commit([drafted(store, "mixtures/one", examples=picks([1, 2]))])
    store.commit([drafted(store, "mixtures/two", examples=picks([2, 3, 4]))])
    return Project(folder=str(tmp_path), home=str(tmp_path / "home"))


def assets(folder=MODELS, mixtures=("one", "two")):
    models = read_models(folder)
    known = known_keys(["alpha"], ["gsm"], list(mixtures), ["rds"])
    return {asset.key.to_user_string(): asset for asset in model_assets(models, models, known)}


def run(project, assets):
    with dg.DagsterInstance.ephemeral(tempdir=project.folder) as instance:
        return dg.materialize(assets, resources={RESOURCE: project}, instance=instance)


def materialize(project, asset):
    result = run(project, [asset])
    (made,) = result.asset_materializations_for_node(asset.op.name)
    return made


def folder_of(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / "models" / f"{name.replace('__', '/')}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "models"


def test_every_file_is_an_asset_that_depends_on_every_instance_it_reads():
    made = assets()
    assert sorted(made) == ["reports/composition", "reports/overlap", "reports/score_distribution"]
    deps = {key: sorted(dep.to_user_string() for dep in asset.dependency_keys) for key, asset in made.items()}
    assert deps == {
        "reports/composition": ["mixtures/one", "mixtures/two", "unique/alpha"],
        "reports/overlap": ["mixtures/one", "mixtures/two"],
        "reports/score_distribution": ["scores/rds/gsm"],
    }
    (spec,) = made["reports/overlap"].specs
    assert (spec.group_name, spec.kinds) == ("reports", {"sql", "duckdb"})
    assert spec.description.startswith("One pair of mixtures")


def test_a_model_over_a_union_without_members_is_left_out_until_there_is_one():
    assert sorted(assets(mixtures=[])) == ["reports/score_distribution"]
    assert "reports/overlap" in assets(mixtures=["one"])


def test_a_model_that_reads_a_model_left_out_is_left_out_too(tmp_path):
    folder = folder_of(
        tmp_path,
        a__last="select n from b.middle union all select n from c.other",
        b__middle="select n from c.first",
        c__first="select count(*) as n from mixtures.all",
        c__other='select count(*) as n from "unique".all',
    )
    assert sorted(assets(folder, mixtures=[])) == ["c/other"]
    assert sorted(assets(folder, mixtures=["one"])) == ["a/last", "b/middle", "c/first", "c/other"]


def test_the_code_version_follows_the_sql_and_the_instances_but_not_the_comments(tmp_path):
    def version(text, mixtures=("one",)):
        (spec,) = assets(folder_of(tmp_path, reports__mine=text), mixtures)["reports/mine"].specs
        return spec.code_version

    first = version("-- One id.\nselect id from mixtures.all order by id")
    assert version("-- One id, said anew.\nselect id\nfrom mixtures.all\norder by id") == first
    assert version("select id from mixtures.all order by id desc") != first
    assert version("select id from mixtures.all order by id", ("one", "two")) != first


def test_a_materialization_carries_version_counts_preview_columns_and_lineage(project):
    made = materialize(project, assets()["reports/overlap"])
    manifest = project.tables.need("reports/overlap")
    assert made.tags["dagster/data_version"] == manifest.fingerprint
    metadata = made.metadata
    assert (metadata["dagster/row_count"].value, metadata["rows_computed"].value, metadata["rows_reused"].value) == (1, 1, 0)
    assert metadata["preview"].value.splitlines() == [
        "| mixture | other_mixture | examples | other_examples | shared | jaccard |",
        "| --- | --- | --- | --- | --- | --- |",
        "| one | two | 2 | 3 | 1 | 0.25 |",
    ]
    assert [(column.name, column.type) for column in metadata["dagster/column_schema"].value.columns][-2:] == [("shared", "int64"), ("jaccard", "double")]
    assert metadata["dagster/column_lineage"].value.deps_by_column["jaccard"] == []  # counts come from no column
    with Warehouse(project.layout).connect() as connection:
        assert connection.sql("select mixture, other_mixture, jaccard from reports.overlap").fetchall() == [("one", "two", 0.25)]


def test_column_lineage_reaches_dagster_as_deps_on_each_instance(project):
    lineage = materialize(project, assets()["reports/composition"]).metadata["dagster/column_lineage"].value
    assert lineage.deps_by_column["task"] == [dg.TableColumnDep(dg.AssetKey(["mixtures", name]), "task") for name in ("one", "two")]


def test_lineage_that_cannot_be_read_is_said_in_the_metadata(project, tmp_path):
    made = materialize(project, assets(folder_of(tmp_path, reports__wild="select columns('pool|method') from mixtures.one order by position"))["reports/wild"])
    assert "dagster/column_lineage" not in made.metadata
    assert "depends on the data or on a pattern" in made.metadata["lineage_problem"].value


def test_running_again_computes_nothing_until_an_input_changes(project):
    overlap = assets()["reports/overlap"]
    first = materialize(project, overlap)
    again = materialize(project, overlap)
    assert (again.metadata["rows_computed"].value, again.metadata["rows_reused"].value) == (0, 1)
    assert again.tags["dagster/data_version"] == first.tags["dagster/data_version"]
    project.tables.commit([drafted(project.tables, "mixtures/two", "2", examples=picks([1, 2]))])
    changed = materialize(project, overlap)
    assert changed.metadata["rows_computed"].value == 1
    assert changed.tags["dagster/data_version"] != first.tags["dagster/data_version"]


def test_a_model_that_reads_a_model_runs_after_it(project, tmp_path):
    folder = folder_of(tmp_path, a__later="select n + 1 as m from b.first", b__first="select count(*) as n from mixtures.one")
    made = assets(folder)
    assert run(project, list(made.values())).success
    assert project.tables.read(project.tables.need("a/later"), "rows").to_pylist() == [{"m": 3}]


def test_a_model_of_no_rows_is_a_materialization_of_none(project):
    project.tables.forget("mixtures/two")
    made = materialize(project, assets(mixtures=["one"])["reports/overlap"])
    assert made.metadata["dagster/row_count"].value == 0
    assert len(made.metadata["preview"].value.splitlines()) == 2  # the head of the table


def test_the_wrong_folder_file_or_clash_is_refused_with_the_mend(tmp_path):
    with pytest.raises(SettingsError, match=r"the folder of SQL models .*gone is not there; make it, or mend `folder`"):
        read_models(tmp_path / "gone")
    with pytest.raises(SettingsError, match=r"loose\.sql stands at the wrong depth; expected models/<schema>/<name>\.sql"):
        read_models(folder_of(tmp_path, loose="select 1 as a"))
    latin = tmp_path / "latin/reports/mine.sql"
    latin.parent.mkdir(parents=True)
    latin.write_bytes("-- größe\nselect 1 as a".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"reports/mine\.sql is not UTF-8 .*at byte 5\); save it as UTF-8"):
        read_models(tmp_path / "latin")


def test_an_unknown_table_fails_when_the_definitions_load(tmp_path):
    with pytest.raises(SettingsError, match=r"reports/mine\.sql reads mixtures\.tree, .* nearest known tables are .*mixtures\.three"):
        assets(folder_of(tmp_path, reports__mine="select id from mixtures.tree"), ["one", "three"])


def test_scaffolding_writes_a_defs_yaml_that_names_the_folder():
    with create_defs_folder_sandbox() as box:
        path = box.scaffold_component(component_cls=SqlModels, defs_path="sql")
        assert yaml.safe_load((path / "defs.yaml").read_text()) == {
            "type": "rds_dagster.components.sql_models.SqlModels",
            "attributes": {"folder": "dbt_like_sql"},
        }


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A project of pools alpha and beta, task gsm, mixtures one and two, and the shipped models."""
    (tmp_path / "pyproject.toml").write_text("[tool.dg]\n")
    (tmp_path / "assets").mkdir()
    shutil.copytree(MODELS, tmp_path / "dbt_like_sql")
    monkeypatch.setenv("RDS_PROJECT", str(tmp_path))
    with create_defs_folder_sandbox() as box:
        add(box, Corpus, "corpus", {"encoder": {"name": "tiny", "model": "tiny", "dtype": "float32"}})
        for pool in ("alpha", "beta"):
            add(box, Pool, f"pools/{pool}", {"name": pool, "source": f"data/{pool}.jsonl"})
        add(box, Task, "tasks/gsm", {"name": "gsm", "queries": "data/gsm.jsonl"})
        for mixture in ("one", "two"):
            add(box, Mixture, f"mixtures/{mixture}", {"name": mixture, "budget": 2})
        add(box, SqlModels, "sql", {})
        yield box


def add(box, component, path, attributes):
    box.scaffold_component(component_cls=component, defs_path=path, defs_yaml_contents={"type": component_type(component), "attributes": attributes})


def component_type(component):
    return f"{component.__module__}.{component.__qualname__}"


def test_the_component_finds_the_instances_of_the_project(box, project):
    with box.build_all_defs() as defs:
        graph = dg.Definitions.merge(defs, dg.Definitions(resources={RESOURCE: project})).resolve_asset_graph()
        parents = {
            name: sorted(key.to_user_string() for key in graph.get(dg.AssetKey(["reports", name])).parent_keys)
            for name in ("composition", "score_distribution")
        }
    assert parents == {"composition": ["mixtures/one", "mixtures/two", "unique/alpha", "unique/beta"], "score_distribution": ["scores/rds/gsm"]}


def test_two_assets_of_one_key_are_refused_with_the_mend(box):
    add(box, Mixture, "mixtures/overlap", {"name": "overlap", "budget": 2})
    with pytest.raises(Exception) as caught, box.build_all_defs():
        pass
    assert "SQL model reports/overlap.sql has the key of the report of mixture 'overlap'; rename one of them" in chain(caught.value)


def test_a_model_in_two_components_is_refused_with_the_mend(box):
    add(box, SqlModels, "sql_again", {})
    with pytest.raises(Exception) as caught, box.build_all_defs():
        pass
    assert "SQL model reports/composition stands in two folders of SqlModels; rename one" in chain(caught.value)


def chain(error):
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__
    return "\n".join(words)
