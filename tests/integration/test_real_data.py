"""The project benchmarks/real on the folder that RDS_REAL_DATA names: reading, cleaning and deduplication of all its records.

Embedding them takes minutes and is done by `rds --project benchmarks/real run`. The overlaps are those measured on the files
themselves by equal lower-cased, white-space-collapsed text.
"""

from pathlib import Path

import pytest

from rds_dagster.cleaning.clean import clean_pool
from rds_dagster.cleaning.unique import unify_pools
from rds_dagster.pools.look import record_pool
from rds_dagster.runs.loading import load_project
from rds_dagster.storage.tables import TableStore

PROJECT = Path(__file__).parents[2] / "benchmarks" / "real"

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def counts(real_data: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDS_REAL_DATA", str(real_data))
        patch.setenv("RDS_HOME", str(tmp_path_factory.mktemp("real")))
        patch.setenv("RDS_PROJECT", str(PROJECT))
        patch.delenv("DAGSTER_HOME", raising=False)
        project = load_project(PROJECT)
    store = TableStore(project.layout)
    clean = {}
    for pool in project.pools:
        record_pool(store, pool.settings, root=project.folder)
        clean[pool.name] = clean_pool(store, pool.settings, project.corpus.cleaning_settings, root=project.folder).clean.counts
    unique = {pool: manifest.counts for pool, manifest in unify_pools(store, [pool.settings for pool in project.pools]).items()}
    return clean, unique


def test_every_record_is_read_and_accounted_for(counts):
    clean, unique = counts
    assert {pool: said.rows_in for pool, said in clean.items()} == {
        "dolly": 14_989, "flan_cot": 33_443, "alpaca": 52_002, "gpteacher_codegen": 4_535, "code_alpaca_new": 4_535, "ei_alpaca_5k": 5_000,
    }  # fmt: skip
    assert all(unique[pool].rows_in == said.kept for pool, said in clean.items())


def test_copies_are_found_as_exact_duplicates_of_what_they_copy(counts):
    clean, unique = counts
    assert unique["code_alpaca_new"].dropped == {"exact_duplicate": 4_535}
    assert clean["ei_alpaca_5k"].dropped == {"empty_answer": 1}  # its copy in alpaca has no answer either
    assert unique["ei_alpaca_5k"].dropped == {"exact_duplicate": 4_999}
    assert "exact_duplicate" not in unique["alpaca"].dropped and "exact_duplicate" not in unique["gpteacher_codegen"].dropped


def test_a_sample_is_drawn_from_what_a_pool_keeps(counts):
    _, unique = counts
    for pool in ("dolly", "flan_cot", "alpaca", "gpteacher_codegen"):
        assert unique[pool].kept + unique[pool].dropped["not_sampled"] == unique[pool].rows_in
        assert 0.08 < unique[pool].kept / unique[pool].rows_in < 0.12
