import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rds_dagster.cleaning import unique as unique_module
from rds_dagster.cleaning.unique import DUPLICATE, NOT_SAMPLED, find_keepers, owned_ids, sample_mask, unify_pools
from rds_dagster.errors import StateError
from rds_dagster.fingerprint import ID_DTYPE, content_digest, seeded_fractions
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.schema import example_id

MEMORY = """
import resource, sys
import numpy as np, pyarrow as pa
from pathlib import Path
from rds_dagster import schema
from rds_dagster.cleaning.unique import owned_ids, unify_pools
from rds_dagster.fingerprint import ID_DTYPE
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.manifest import Counts
from rds_dagster.storage.ids import id_column
from rds_dagster.storage.tables import TableStore

store, count = TableStore(Layout(Path(sys.argv[1]))), int(sys.argv[2])
print("begins", flush=True)
if sys.argv[3] == "write":
    ids = np.sort(np.frombuffer(np.random.default_rng(0).bytes(16 * count), ID_DTYPE))
    for number, pool in enumerate(("a", "b")):
        draft, part = store.draft(f"clean/{pool}", "r"), ids[number::2]
        keys = np.where(np.arange(len(part)) % 8 == 0, ids[0::2][: len(part)], part) if number else part  # every eighth of b stands in a
        nothing = pa.array(np.zeros(len(part), np.int32))
        columns = [id_column(part), id_column(keys), pa.array(["x"] * len(part)), nothing, nothing, nothing, nothing]
        draft.write("index", pa.table(columns, schema=schema.CLEAN), schema.CLEAN)
        store.commit([draft.manifest(fingerprint="f", settings={}, parents={}, counts=Counts(len(part), len(part)))])
else:
    made = unify_pools(store, [PoolSettings("a", "a"), PoolSettings("b", "b")])
    assert made["b"].counts.dropped == {"exact_duplicate": -(-(count // 2) // 8)}
    assert len(owned_ids(store, ["a", "b"])) == sum(manifest.counts.kept for manifest in made.values())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def asked(question: str, answer: str = "yes") -> dict[str, object]:
    return {"prompt": question, "response": answer}


def id_of(question: str, answer: str = "yes") -> bytes:
    return example_id([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def make_pools(pool_folder, **questions: list[str]) -> dict[str, PoolSettings]:
    pools = {name: PoolSettings(name, f"data/{name}.jsonl") for name in questions}
    for name, pool in pools.items():
        pool_folder.write(f"data/{name}.jsonl", *map(asked, questions[name]))
        pool_folder.clean(pool)
    return pools


def kept(pool_folder, manifest) -> set[bytes]:
    return {row["id"] for row in pool_folder.rows(manifest, "kept")}


def keys(*numbers: int) -> np.ndarray:
    return np.array([number.to_bytes(16, "big") for number in numbers], ID_DTYPE)


def test_the_first_row_with_a_key_keeps_it():
    assert find_keepers(keys(5, 3, 5, 9, 3, 5)).tolist() == [0, 1, 0, 3, 1, 0]
    assert find_keepers(keys()).tolist() == []


@given(st.lists(st.integers(0, 8), max_size=40))
def test_keepers_are_those_of_a_plain_loop(numbers):
    first: dict[int, int] = {}
    expected = [first.setdefault(number, row) for row, number in enumerate(numbers)]
    assert find_keepers(keys(*numbers)).tolist() == expected


def test_three_pools_by_hand(pool_folder):
    pools = make_pools(
        pool_folder,
        first=["one", "two", "three"],
        second=["two", "four", " one\n", "five"],
        third=["five", "three", "four", "six"],
    )
    made = unify_pools(pool_folder.store, list(pools.values()))
    assert kept(pool_folder, made["first"]) == set(map(id_of, ("one", "two", "three")))
    assert kept(pool_folder, made["second"]) == set(map(id_of, ("four", "five")))
    assert kept(pool_folder, made["third"]) == {id_of("six")}
    losers = {name: {(row["id"], row["reason"], row["keeper_id"], row["keeper_pool"]) for row in pool_folder.rows(made[name], "losers")} for name in pools}
    assert losers["first"] == set()
    assert losers["second"] == {(id_of("two"), DUPLICATE, id_of("two"), "first"), (id_of(" one\n"), DUPLICATE, id_of("one"), "first")}
    assert losers["third"] == {
        (id_of("five"), DUPLICATE, id_of("five"), "second"),
        (id_of("three"), DUPLICATE, id_of("three"), "first"),
        (id_of("four"), DUPLICATE, id_of("four"), "second"),
    }
    quarantine = pool_folder.rows(made["third"], "quarantine")
    assert {(row["stage"], row["reason"], row["pool"], row["detail"]) for row in quarantine} == {
        ("unique", DUPLICATE, "third", "alike but for white space; kept by pool second"),
        ("unique", DUPLICATE, "third", "alike but for white space; kept by pool first"),
    }
    counts = {name: (m.counts.rows_in, m.counts.kept, dict(m.counts.dropped)) for name, m in made.items()}
    assert counts == {"first": (3, 3, {}), "second": (4, 2, {DUPLICATE: 2}), "third": (4, 1, {DUPLICATE: 3})}
    assert owned_ids(pool_folder.store, ["first", "second", "third"]).tolist() == sorted(map(id_of, ("one", "two", "three", "four", "five", "six")))


def test_the_order_of_the_pools_decides_who_owns(pool_folder):
    pools = make_pools(pool_folder, a=["one", "two"], b=["two", "three"])
    assert kept(pool_folder, unify_pools(pool_folder.store, [pools["a"], pools["b"]])["a"]) == {id_of("one"), id_of("two")}
    turned = unify_pools(pool_folder.store, [pools["b"], pools["a"]])
    assert kept(pool_folder, turned["a"]) == {id_of("one")}
    assert kept(pool_folder, turned["b"]) == {id_of("two"), id_of("three")}


def test_of_two_alike_in_one_pool_the_smaller_id_stays(pool_folder):
    pools = make_pools(pool_folder, a=["one two", "one  two", "one\ttwo"])
    made = unify_pools(pool_folder.store, list(pools.values()))["a"]
    ids = sorted(map(id_of, ("one two", "one  two", "one\ttwo")))
    assert kept(pool_folder, made) == {ids[0]}
    assert [(row["id"], row["keeper_id"], row["keeper_pool"]) for row in pool_folder.rows(made, "losers")] == [(id, ids[0], "a") for id in ids[1:]]


def test_case_and_punctuation_make_no_duplicate(pool_folder):
    pools = make_pools(pool_folder, a=["One", "one", "one.", "one?"])
    assert unify_pools(pool_folder.store, list(pools.values()))["a"].counts.kept == 4


questions = st.sampled_from([f"{gap}{word}{gap}" for word in ("one", "two", "a b", "a  b", "six") for gap in ("", " ", "\n")])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(questions, min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_pools_are_united_as_by_a_plain_loop(tmp_path_factory, pool_folder, contents):
    folder = type(pool_folder)(tmp_path_factory.mktemp("pools"))
    pools = make_pools(folder, **{f"p{number}": questions for number, questions in enumerate(contents)})
    made = unify_pools(folder.store, list(pools.values()))
    seen: dict[str, tuple[bytes, str]] = {}
    for name, questions in zip(pools, contents, strict=True):
        expected_kept, expected_losers = set(), set()
        for id, question in sorted((id_of(question), question) for question in set(questions)):
            owner = seen.setdefault(" ".join(question.split()), (id, name))
            expected_kept |= {id} if owner == (id, name) else set()
            expected_losers |= {(id, *owner)} if owner != (id, name) else set()
        assert kept(folder, made[name]) == expected_kept
        assert {(row["id"], row["keeper_id"], row["keeper_pool"]) for row in folder.rows(made[name], "losers")} == expected_losers


@pytest.mark.parametrize(("sample", "size"), [(None, 1000), (1, 1), (10, 10), (1000, 1000), (5000, 1000), (1.0, 1000)])
def test_a_sample_has_its_size(sample, size):
    assert sample_mask(made_ids(1000), sample, 0).sum() == size


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_share_is_met_but_for_chance(share):
    ids = made_ids(20_000)
    mask = sample_mask(ids, share, 3)
    assert abs(mask.sum() - share * 20_000) < 5 * (20_000 * share * (1 - share)) ** 0.5  # five standard deviations
    assert (mask == (seeded_fractions(ids, 3, "sample") < share)).all()


@given(st.integers(1, 60), st.integers(0, 5), st.randoms())
def test_a_sample_does_not_hang_on_the_order_and_a_larger_one_holds_it(size, seed, randoms):
    ids = made_ids(50)
    for sample, larger in ((size, size + 7), (min(size / 60, 1.0), min(size / 60 + 0.1, 1.0))):
        taken = set(ids[sample_mask(ids, sample, seed)].tolist())
        shuffled = np.array(randoms.sample(ids.tolist(), 50), ID_DTYPE)
        assert set(shuffled[sample_mask(shuffled, sample, seed)].tolist()) == taken
        assert taken <= set(ids[sample_mask(ids, larger, seed)].tolist())


def made_ids(count: int) -> np.ndarray:
    return np.array([content_digest(str(number).encode()) for number in range(count)], ID_DTYPE)


def with_sample(pool: PoolSettings, sample: int | float, seed: int = 0) -> PoolSettings:
    return PoolSettings(pool.name, pool.source, sample=sample, sample_seed=seed)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(questions, min_size=1, max_size=12), min_size=2, max_size=3), st.integers(1, 5), st.integers(1, 4))
def test_tables_written_in_parts_are_those_written_at_once(tmp_path_factory, pool_folder, contents, sample, group):
    folder = type(pool_folder)(tmp_path_factory.mktemp("pools"))
    pools = [with_sample(pool, sample) for pool in make_pools(folder, **{f"p{number}": questions for number, questions in enumerate(contents)}).values()]
    whole = unify_pools(folder.store, pools)
    rows = {(name, table): folder.rows(made, table) for name, made in whole.items() for table in ("kept", "losers", "quarantine")}
    for pool in pools:
        folder.store.forget(f"unique/{pool.name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unique_module, "GROUP_ROWS", group)
        parts = unify_pools(folder.store, pools)
    assert {name: (m.fingerprint, m.counts) for name, m in parts.items()} == {name: (m.fingerprint, m.counts) for name, m in whole.items()}
    for (name, table), expected in rows.items():
        assert folder.rows(parts[name], table) == expected
        sizes = [
            pq.read_metadata(path).row_group(number).num_rows for path in folder.store.paths(parts[name], table) for number in range(-(-len(expected) // group))
        ]
        assert sizes == [min(group, len(expected) - start) for start in range(0, len(expected), group)]


def test_equal_fractions_go_to_the_smaller_id(monkeypatch):
    monkeypatch.setattr(unique_module, "seeded_fractions", lambda ids, seed, purpose: np.array([0.5, 0.2, 0.5, 0.9, 0.5]))
    assert sample_mask(keys(3, 8, 1, 0, 2), 3, 0).tolist() == [False, True, True, False, True]


def test_a_sample_is_drawn_from_what_a_pool_keeps(pool_folder):
    numbers = [str(number) for number in range(30)]
    pools = make_pools(pool_folder, a=numbers[:20], b=numbers)
    made = unify_pools(pool_folder.store, [pools["a"], with_sample(pools["b"], 4)])
    left = np.array(sorted(map(id_of, numbers[20:])), ID_DTYPE)
    assert kept(pool_folder, made["b"]) == set(left[np.argsort(seeded_fractions(left, 0, "sample"))[:4]].tolist())
    assert made["b"].counts.dropped == {DUPLICATE: 20, NOT_SAMPLED: 6}
    left_out = [row for row in pool_folder.rows(made["b"], "quarantine") if row["reason"] == NOT_SAMPLED]
    assert {row["id"] for row in left_out} == set(left.tolist()) - kept(pool_folder, made["b"])
    assert {row["detail"] for row in left_out} == {"left out by sample: 4"}
    assert made["b"].settings["sample"] == 4


def test_a_pool_owns_what_its_sample_leaves_out(pool_folder):
    pools = make_pools(pool_folder, a=["one", "two", "three"], b=["one", "two", "three"])
    made = unify_pools(pool_folder.store, [with_sample(pools["a"], 1), pools["b"]])
    assert (made["a"].counts.kept, made["b"].counts.kept) == (1, 0)


def test_growth_reshuffles_no_share(pool_folder):
    numbers = [str(number) for number in range(60)]
    pools = make_pools(pool_folder, a=numbers[:40])
    before = kept(pool_folder, unify_pools(pool_folder.store, [with_sample(pools["a"], 0.5)])["a"])
    pools = make_pools(pool_folder, a=numbers[::-1])
    after = kept(pool_folder, unify_pools(pool_folder.store, [with_sample(pools["a"], 0.5)])["a"])
    assert before == after & set(map(id_of, numbers[:40]))
    assert 10 < len(before) < 30


def test_another_seed_draws_others(pool_folder):
    pools = make_pools(pool_folder, a=[str(number) for number in range(40)])
    drawn = [kept(pool_folder, unify_pools(pool_folder.store, [with_sample(pools["a"], 10, seed)])["a"]) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_united_pools_are_reused_until_something_changes(pool_folder):
    pools = make_pools(pool_folder, a=["one"], b=["two"])
    first = unify_pools(pool_folder.store, list(pools.values()))
    path = pool_folder.store.paths(first["a"], "kept")[0]
    written = path.stat().st_mtime_ns
    assert unify_pools(pool_folder.store, list(pools.values())) == first
    assert path.stat().st_mtime_ns == written
    assert unify_pools(pool_folder.store, [pools["a"], with_sample(pools["b"], 1)])["a"].recipe != first["a"].recipe


def test_a_pool_whose_kept_rows_are_the_same_keeps_its_fingerprint(pool_folder):
    pools = make_pools(pool_folder, a=["one"], b=["two"], c=["three"])
    before = unify_pools(pool_folder.store, list(pools.values()))
    make_pools(pool_folder, b=["two", "three"])
    after = unify_pools(pool_folder.store, list(pools.values()))
    assert after["a"].fingerprint == before["a"].fingerprint
    assert after["b"].fingerprint != before["b"].fingerprint != after["c"].fingerprint != before["c"].fingerprint


def test_all_pools_switch_at_once(pool_folder):
    pools = make_pools(pool_folder, a=["one"], b=["two"])
    before = unify_pools(pool_folder.store, list(pools.values()))
    make_pools(pool_folder, a=["one", "three"])
    pool_folder.store.forget("clean/b")
    with pytest.raises(StateError, match="clean/b is not materialized yet"):
        unify_pools(pool_folder.store, list(pools.values()))
    assert {m.key: m for m in pool_folder.store.manifests("unique")} == {m.key: m for m in before.values()}


def test_pools_without_examples_are_united_too(pool_folder):
    pools = make_pools(pool_folder, a=["one"], b=["one"], c=["one", "two"])
    pool_folder.write("data/b.jsonl", b"{")
    pool_folder.clean(pools["b"])
    made = unify_pools(pool_folder.store, list(pools.values()))
    assert [made[name].counts.kept for name in "abc"] == [1, 0, 1]
    (loser,) = pool_folder.rows(made["c"], "losers")
    assert loser["keeper_pool"] == "a"


def test_memory_grows_by_at_most_100_bytes_an_example(tmp_path, start_process):
    peaks = []
    for count in (50_000, 500_000):
        for part in ("write", "measure"):
            process = start_process(MEMORY, tmp_path / str(count), count, part)
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 0
        peaks.append(int(said))
    assert (peaks[1] - peaks[0]) / 450_000 <= 100
