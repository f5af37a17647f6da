from pathlib import Path

import pytest

from rds_dagster.errors import SettingsError, StateError
from rds_dagster.lineage.sql import column_lineage, expand, known_keys, parse_model, refuse_cycles

MODELS = Path(__file__).parents[2] / "dbt_like_sql"

KNOWN = known_keys(pools=["alpha", "beta"], tasks=["chat", "gsm"], mixtures=["best", "plain"], methods=["rds"])

MIXTURE_COLUMNS = ["mixture", "position", "id", "pool", "source", "task", "query", "rank", "score", "method", "messages"]


def dependencies(sql: str) -> set[tuple[str, str]]:
    return set(parse_model("reports", "mine", sql).dependencies)


def shipped(name: str):
    return parse_model("reports", name, (MODELS / "reports" / f"{name}.sql").read_text())


def test_known_keys_are_every_readable_asset_of_the_instances():
    assert known_keys(["dolly"], ["gsm"], ["best"], ["rds"]) == [
        "clean/dolly", "mixtures/best", "provenance/dolly", "queries/gsm", "raw/dolly", "scores/rds/gsm", "test_items/gsm", "unique/dolly",
    ]  # fmt: skip
    assert known_keys([], [], [], ["rds"]) == []


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select id from mixtures.all", {("mixtures", "all")}),
        ("select m.id from Mixtures.ALL as m", {("mixtures", "all")}),
        ('select id from "mixtures"."all"', {("mixtures", "all")}),
        ("from mixtures.all select id", {("mixtures", "all")}),
        ("select 1 as one", set()),
        ("select i from range(5) as r(i)", set()),
        ("select x from unnest([1, 2]) as u(x)", set()),
        ("select id from clean.alpha union all select id from clean.beta", {("clean", "alpha"), ("clean", "beta")}),
        ("select id from (select id from raw.all) as r except (select id from clean.all)", {("raw", "all"), ("clean", "all")}),
        ("select id, (select count(*) from raw.all) as n from clean.all where id in (select id from scores_rds.gsm)",
         {("raw", "all"), ("clean", "all"), ("scores_rds", "gsm")}),
        ("select id from clean.all as c where exists (select 1 from mixtures.best as m where m.id = c.id)", {("clean", "all"), ("mixtures", "best")}),
        ("with a as (with b as (select id from raw.all) select id from b) select id from a", {("raw", "all")}),
        ("with recursive r as (select 1 as i union all select i + 1 from r where i < 3) select i from r join clean.all as c on c.num_chars = r.i",
         {("clean", "all")}),
        ('with Mine as (select id from raw.all) select m.id from mine as m, "MINE" as n', {("raw", "all")}),
        ("select * from (pivot mixtures.all on task using count(*))", {("mixtures", "all")}),
    ],
)  # fmt: skip
def test_dependencies_are_the_qualified_tables_wherever_they_stand(sql, expected):
    assert dependencies(sql) == expected


def test_a_cte_shadows_only_the_unqualified_name():
    sql = "with overlap as (select mixture from reports.overlap), mixtures as (select id from mixtures.all) select o.mixture from overlap as o, mixtures as m"
    assert dependencies(sql) == {("reports", "overlap"), ("mixtures", "all")}


def test_an_inner_cte_is_not_seen_outside_its_query():
    with pytest.raises(SettingsError, match=r"reports/mine\.sql reads 'b', which is neither a CTE .* write schema\.table"):
        dependencies("with a as (with b as (select id from raw.all) select id from b) select a.id from a, b")


def test_the_header_comment_is_the_description():
    model = parse_model("reports", "mine", "\n-- One mixture.\n--  Why it exists.\n\n-- not this\nselect id from mixtures.all -- nor this\n")
    assert model.description == "One mixture.\nWhy it exists."
    assert (model.key, model.file) == ("reports/mine", "reports/mine.sql")
    assert parse_model("reports", "mine", "select 1 as one").description == ""


def test_the_code_is_the_sql_without_comments_and_layout():
    code = parse_model("reports", "mine", "-- one\nselect id,\n  pool from mixtures.all").code
    assert parse_model("reports", "other", "-- two\nSELECT id, pool -- note\nFROM mixtures.all;").code == code
    assert parse_model("reports", "mine", "select pool, id from mixtures.all").code != code


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select id from examples", r"reads 'examples', which is neither a CTE of the model nor qualified; write schema\.table, such as mixtures\.all"),
        ("select * from (pivot examples on a using sum(b))", r"reads 'examples', which is neither"),
        ("select * from 'pool.parquet'", r"reads 'pool\.parquet', which is neither"),
        ("select * from read_csv('pool.csv')", r"reads READ_CSV\('pool\.csv'\), which is no asset"),
        ("select * from glob('*')", r"reads GLOB\('\*'\), which is no asset"),
        ("select id from other.mixtures.best", r"reads other\.mixtures\.best of another database"),
        ("select 1 as a; select 2 as b", r"reports/mine\.sql holds 2 statements; expected exactly one select"),
        ("-- nothing\n", r"holds 0 statements; expected exactly one select"),
        ("drop table mixtures.best", r"is a drop statement; expected one select, which becomes the table reports\.mine"),
        ("create table reports.mine as select 1 as a", r"is a create statement"),
        ("insert into mixtures.best select 1", r"is an? insert statement"),
        ("copy mixtures.best to 'out.csv'", r"is a copy statement"),
        ("with gone as (delete from mixtures.best returning id) select id from gone", r"holds a delete statement; expected one select that changes nothing"),
        ("select id from unique.all", r"cannot be parsed: Parser Error: syntax error at or near \"unique\".*reserved words are quoted"),
        ("select from where", r"cannot be parsed"),
        ("select id from reports.mine", r"reads reports\.mine, its own result"),
    ],
)  # fmt: skip
def test_what_is_no_single_select_over_assets_is_refused_with_the_mend(sql, words):
    with pytest.raises(SettingsError, match=words):
        parse_model("reports", "mine", sql)


@pytest.mark.parametrize(
    ("schema", "name", "words"),
    [
        ("Reports", "mine", r"the folder name is 'Reports'; expected small letters"),
        ("reports", "my-report", r"the file name is 'my-report'"),
        ("mixtures", "mine", r"the schema 'mixtures' belongs to the pipeline"),
        ("scores_rds", "mine", r"the schema 'scores_rds' belongs to the pipeline"),
        ("reports", "all", r"the name 'all' stands for unions"),
    ],
)
def test_names_that_cannot_be_tables_of_a_model_are_refused(schema, name, words):
    with pytest.raises(SettingsError, match=words):
        parse_model(schema, name, "select 1 as one")


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (("mixtures", "all"), ["mixtures/best", "mixtures/plain"]),
        (("mixtures", "best"), ["mixtures/best"]),
        (("scores", "all"), ["scores/rds/chat", "scores/rds/gsm"]),
        (("scores_rds", "gsm"), ["scores/rds/gsm"]),
        (("quarantine", "all"), ["clean/alpha", "clean/beta", "unique/alpha", "unique/beta"]),
        (("provenance", "all"), ["provenance/alpha", "provenance/beta"]),
        (("unique", "beta"), ["unique/beta"]),
        (("queries", "all"), ["queries/chat", "queries/gsm"]),
        (("reports", "overlap"), ["reports/overlap"]),
    ],
)
def test_tables_expand_to_the_assets_behind_them(table, keys):
    assert expand({table}, [*KNOWN, "reports/overlap"], file="reports/mine.sql") == keys


def test_an_all_without_instances_expands_to_nothing():
    assert expand({("mixtures", "all")}, ["raw/alpha"], file="reports/mine.sql") == []


def test_an_unknown_table_lists_the_nearest_known_ones():
    with pytest.raises(SettingsError, match=r"reports/mine\.sql reads mixture\.all, .* the nearest known tables are mixtures\.all"):
        expand({("mixture", "all")}, KNOWN, file="reports/mine.sql")
    with pytest.raises(SettingsError, match=r"reads scores_rds\.gms, .* the nearest known tables are scores_rds\.gsm"):
        expand({("scores_rds", "gms")}, KNOWN, file="reports/mine.sql")
    with pytest.raises(SettingsError, match=r"reads zzz\.qqq, .* known are clean\.all, .*mixtures\.all.* and their instances"):
        expand({("zzz", "qqq")}, KNOWN, file="reports/mine.sql")


def test_models_may_read_each_other_but_not_in_a_circle():
    base, over = parse_model("a", "base", "select 1 as x"), parse_model("a", "over", "select x from a.base")
    refuse_cycles([over, base])
    with pytest.raises(SettingsError, match=r"in a circle: (a\.base -> a\.over -> a\.base|a\.over -> a\.base -> a\.over); let one of them"):
        refuse_cycles([over, parse_model("a", "base", "select x from a.over")])


def test_the_column_lineage_of_composition_names_every_instance_and_source_column():
    columns_of = {("mixtures", "all"): MIXTURE_COLUMNS, ("unique", "all"): ["pool", "id", "source"]}
    lineage = column_lineage(shipped("composition"), columns_of, KNOWN)
    from_mixtures = [("mixtures/best", "pool"), ("mixtures/best", "source"), ("mixtures/plain", "pool"), ("mixtures/plain", "source")]
    assert lineage == {
        "mixture": [],  # says which instance; no column of the instance holds it
        "source": [key for key in from_mixtures if key[1] in ("pool", "source")],
        "task": [("mixtures/best", "task"), ("mixtures/plain", "task")],
        "examples": [],  # counts
        "share": [],
        "pool_examples": [],
        "pool_share": [],
    }


def test_the_column_lineage_follows_unions_subqueries_and_aggregates():
    sql = """
        with either as (select id, score from scores_rds.gsm union all select id, score from scores_rds.chat)
        select b.id, max(b.score) + (select max(num_chars) from clean.alpha) as top, any_value(r.n) as n
        from either as b join (select examples as n from reports.overlap) as r on true group by b.id"""
    score = ["id", "score", "best_query"]
    columns_of = {("scores_rds", "gsm"): score, ("scores_rds", "chat"): score, ("clean", "alpha"): ["id", "num_chars"], ("reports", "overlap"): ["examples"]}
    assert column_lineage(parse_model("reports", "mine", sql), columns_of, [*KNOWN, "reports/overlap"]) == {
        "id": [("scores/rds/chat", "id"), ("scores/rds/gsm", "id")],
        "top": [("clean/alpha", "num_chars"), ("scores/rds/chat", "score"), ("scores/rds/gsm", "score")],
        "n": [("reports/overlap", "examples")],
    }


def test_a_star_from_a_source_is_followed_column_by_column():
    model = parse_model("reports", "mine", "with a as (select * from scores.all) select * from a")
    lineage = column_lineage(model, {("scores", "all"): ["method", "task", "id", "score"]}, KNOWN)
    assert lineage == {
        "method": [],
        "task": [],
        "id": [("scores/rds/chat", "id"), ("scores/rds/gsm", "id")],
        "score": [("scores/rds/chat", "score"), ("scores/rds/gsm", "score")],
    }


@pytest.mark.parametrize("sql", ["select columns('num.*') from clean.alpha", "select * from (pivot clean.alpha on id using sum(num_chars))"])
def test_lineage_that_cannot_be_followed_says_so(sql):
    with pytest.raises(StateError, match=r"column lineage of SQL model reports/mine\.sql cannot be read: what column .* depends on the data or on a pattern"):
        column_lineage(parse_model("reports", "mine", sql), {("clean", "alpha"): ["id", "num_chars"]}, KNOWN)


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("composition", {("mixtures", "all"), ("unique", "all")}),
        ("score_distribution", {("scores", "all")}),
        ("overlap", {("mixtures", "all")}),
    ],
)
def test_the_shipped_models_say_what_one_row_is_and_end_on_final(name, tables):
    model = shipped(name)
    assert model.description.startswith("One ")
    assert model.dependencies == tables
    assert model.sql.rstrip().endswith("select * from final")
    assert model.sql.count("order by") == 1
