"""Whatever happens to the pools, the tasks and the mixtures: after each step the state that grew equals a rebuild from nothing.

A *step* is one to three events at once, drawn by hypothesis. After each one, all stages are driven in the order of their keys over the state
that grew, and over an empty folder; then every table must be equal row for row, every mixture and export byte for byte. Both embed for
themselves. Only fsync is left out, and the model is loaded and hashed once.
"""

import gzip
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rds_dagster.cleaning.clean import clean_pool
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.cleaning.unique import owned_ids, unify_pools
from rds_dagster.embeddings import embed_pools as embed_pools_module
from rds_dagster.embeddings import embed_queries as embed_queries_module
from rds_dagster.embeddings import register as register_module
from rds_dagster.embeddings.embed_pools import embed_pools
from rds_dagster.embeddings.embed_queries import embed_queries
from rds_dagster.embeddings.encoder import load_encoder
from rds_dagster.embeddings.register import identify, register_encoder
from rds_dagster.embeddings.settings import EncoderSettings
from rds_dagster.errors import RdsError
from rds_dagster.exports.export_mixture import export_mixture
from rds_dagster.mixtures.make_mixture import make_mixture
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.pools.look import record_pool
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.runs.new_project import make_project
from rds_dagster.runs.walk import WalkResult, run_stale
from rds_dagster.schema import Message, duplicate_key, example_id
from rds_dagster.scores import blocks
from rds_dagster.scores.score_tasks import score_tasks
from rds_dagster.scores.settings import ScoreSettings
from rds_dagster.storage import atomic, vectors
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore

THINGS = ("the sea", "a fox", "old bread", "music", "snow", "a bridge", "chess", "Celle", "Fulda", "a sum", "the number 4", "rain")
POOL_NAMES = ("sums", "towns", "chat", "letters", "web")
FILE_NAMES = ("a.jsonl", "b.jsonl", "in/a.jsonl", "c.json", "d.jsonl.gz")
HOWS = ("plain", "plain", "spaced", "sourced", "broken")  # a record is written
BLOCK_ROWS = 4  # of a block of scores, and of a chunk of vectors: so that a dozen examples are several


@dataclass
class World:
    """What a user has: files of lines by pool, in the order of the pools; lines of queries by task; settings."""

    pools: dict[str, dict[str, list[str]]]
    tasks: dict[str, list[str]]
    mixtures: dict[str, dict[str, object]]
    samples: dict[str, float | int] = field(default_factory=dict)
    licenses: dict[str, str] = field(default_factory=dict)
    depth: int = 3
    max_tokens: int = 64

    @property
    def pool_settings(self) -> list[PoolSettings]:
        return [PoolSettings(name, f"pools/{name}", license=self.licenses.get(name, "unknown"), sample=self.samples.get(name)) for name in self.pools]


def record(number: int, how: str = "plain") -> str:
    """A line of a pool: one of a few conversations, as it is, with other white space (a duplicate, not the same example), from a named source, or broken."""
    thing = THINGS[number % len(THINGS)]
    turns = [f"Tell me {number} things about {thing}.", f"{thing} is {number} times as old."]
    if how == "broken":
        return json.dumps({"messages": []}) if number % 2 else '{"messages": [{"role"'
    if how == "spaced":
        turns = [f"{turns[0]} ", turns[1].replace(" is ", "  is ")]
    said = {"messages": [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns, strict=True)]}
    if how == "array":
        return json.dumps([said])  # one element of a .json file, and no record of a .jsonl file
    return json.dumps({"source": ("atlas", "letters")[number % 2], "id": number, **said} if how == "sourced" else said)


def query(task: str, number: int, *, space: str = "", name: str | None = None) -> str:
    asked = f"What is {number} plus 1?" if task == "adding" else f"Which town lies {number} miles away?"
    turns = [{"role": "user", "content": asked + space}, {"role": "assistant", "content": f"It is {number + 1}."}]
    return json.dumps({"id": name or f"{task}-{number}", "messages": turns})


def first_world() -> World:
    return World(
        pools={
            "sums": {"a.jsonl": [record(n) for n in (0, 1, 2, 3)], "b.jsonl": [record(4, "sourced"), record(2)]},
            "towns": {"a.jsonl": [record(n) for n in (5, 6)] + [record(1, "spaced"), record(7, "broken")]},
            "chat": {"in/a.jsonl": [record(n) for n in (8, 0)], "d.jsonl.gz": [record(9)]},
        },
        tasks={"adding": [query("adding", n) for n in (3, 4)], "places": [query("places", n) for n in (5, 6)]},
        mixtures={
            "best": {"budget": 5},
            "one_task": {"budget": 7, "tasks": ("adding",), "on_taken": "next_best"},
            "by_chance": {"budget": 5, "method": "random"},
        },
    )


# ---- what can happen --------------------------------------------------------------------------------------------------------------------------------

Draw = tuple[int, int, int, str]
"""Three numbers, taken modulo how many there are to choose from, and how a new line is written."""


def pick(names: Sequence[str], number: int) -> str:
    return names[number % len(names)]


def chosen_pool(world: World, draw: Draw) -> dict[str, list[str]]:
    return world.pools[pick(list(world.pools), draw[0])]


def chosen_file(world: World, draw: Draw) -> list[str]:
    files = chosen_pool(world, draw)
    return files[pick(list(files), draw[1])]


def rows_appended(world: World, draw: Draw) -> None:
    chosen_file(world, draw).extend([record(draw[2], draw[3]), record(draw[2] + 1)])


def line_changed(world: World, draw: Draw) -> None:
    lines = chosen_file(world, draw)
    lines[draw[2] % len(lines)] = record(draw[2], draw[3])


def line_removed(world: World, draw: Draw) -> None:
    lines = chosen_file(world, draw)
    if len(lines) > 1:
        del lines[draw[2] % len(lines)]


def lines_reordered(world: World, draw: Draw) -> None:
    lines = chosen_file(world, draw)
    lines[:] = [*lines[draw[2] % len(lines) :], *lines[: draw[2] % len(lines)]][:: -1 if draw[2] % 2 else 1]


def file_added(world: World, draw: Draw) -> None:
    """Or put in place of one with that name."""
    chosen_pool(world, draw)[pick(FILE_NAMES, draw[1])] = [record(draw[2] + n, draw[3] if n == 0 else "plain") for n in range(2)]


def array_added(world: World, draw: Draw) -> None:
    """A JSON array in one line: all is well if the file's ending says so."""
    chosen_pool(world, draw)[("b.jsonl", "c.json")[draw[1] % 2]] = [record(draw[2], "array")]


def file_removed(world: World, draw: Draw) -> None:
    files = chosen_pool(world, draw)
    if len(files) > 1:
        del files[pick(list(files), draw[1])]


def file_renamed(world: World, draw: Draw) -> None:
    """Within its pool, or into another one; packed or unpacked where the endings ask for it."""
    files, others = chosen_pool(world, draw), list(world.pools.values())
    to, name = others[draw[2] % len(others)] if draw[2] % 3 == 0 else files, pick(FILE_NAMES, draw[2])
    if name not in to and (to is files or len(files) > 1):
        to[name] = files.pop(pick(list(files), draw[1]))


def pool_added(world: World, draw: Draw) -> None:
    """With what another pool has, and something new."""
    world.pools.setdefault(pick(POOL_NAMES, draw[1]), {pick(FILE_NAMES[:3], draw[2]): [*chosen_file(world, draw), record(draw[2], draw[3])]})


def pool_removed(world: World, draw: Draw) -> None:
    if len(world.pools) > 1:
        del world.pools[pick(list(world.pools), draw[0])]


def pool_renamed(world: World, draw: Draw) -> None:
    old, new = pick(list(world.pools), draw[0]), pick(POOL_NAMES, draw[1])
    if new not in world.pools:
        world.pools = {new if name == old else name: files for name, files in world.pools.items()}


def pools_reordered(world: World, draw: Draw) -> None:
    names = list(world.pools)
    moved = names.pop(draw[0] % len(names))
    names.insert(draw[1] % (len(names) + 1), moved)
    world.pools = {name: world.pools[name] for name in names}


def arrived_from_another_pool(world: World, draw: Draw) -> None:
    taken = chosen_file(world, draw)[draw[2] % len(chosen_file(world, draw))]
    world.pools[pick(list(world.pools), draw[1])].setdefault("b.jsonl", []).append(taken)


def left_where_another_has_it(world: World, draw: Draw) -> None:
    """All lines of a pool that also stand in others, unless it has no more."""
    name = pick(list(world.pools), draw[0])
    others = {line for other, files in world.pools.items() if other != name for lines in files.values() for line in lines}
    left = {file: [line for line in lines if line not in others] for file, lines in world.pools[name].items()}
    if any(left.values()):
        world.pools[name] = {file: lines for file, lines in left.items() if lines}


def queries_changed(world: World, draw: Draw) -> None:
    """Another one, one more, one less, the other order, another name, or white space that no vector shows."""
    task, number = pick(list(world.tasks), draw[0]), draw[2]
    lines = world.tasks[task]
    at = number % len(lines)
    names = [json.loads(line)["id"] for line in lines]
    fresh = query(task, 10 + number, name=f"new-{number}")
    changes = {
        0: [*lines[:at], query(task, number, name=names[at]), *lines[at + 1 :]],
        1: lines if f"new-{number}" in names else [*lines, fresh],
        2: lines[:at] + lines[at + 1 :] if len(lines) > 1 else lines,
        3: lines[::-1],
        4: [*lines[:at], json.dumps({**json.loads(lines[at]), "id": f"named-{names[at]}"}), *lines[at + 1 :]],
        5: [json.dumps({**json.loads(line), "messages": [{**m, "content": m["content"] + " "} for m in json.loads(line)["messages"]]}) for line in lines],
    }
    world.tasks[task] = changes[draw[1] % len(changes)]


def budget_changed(world: World, draw: Draw) -> None:
    world.mixtures[pick(list(world.mixtures), draw[0])]["budget"] = 1 + draw[2]


def mixture_changed(world: World, draw: Draw) -> None:
    """Its way of choosing, or the tasks that it is for."""
    if draw[1] % 2:
        world.mixtures["best"]["selector"] = ("mean_max", "round_robin", "global_top")[draw[2] % 3]
    else:
        world.mixtures["one_task"]["tasks"] = tuple(world.tasks)[: 1 + draw[2] % 2]


def sample_changed(world: World, draw: Draw) -> None:
    """Of a pool; or its licence."""
    name = pick(list(world.pools), draw[0])
    if draw[1] % 3:
        world.samples = {**world.samples, name: (2, 0.5, 1.0)[draw[2] % 3]}
    else:
        world.licenses[name] = ("CC0", "MIT")[draw[2] % 2]


def depth_changed(world: World, draw: Draw) -> None:
    world.depth = 2 + draw[2] % 3


def encoder_changed(world: World, draw: Draw) -> None:
    world.max_tokens = (64, 12)[draw[2] % 2]


OF_POOLS = (
    rows_appended, line_changed, line_removed, lines_reordered, file_added, array_added, file_removed, file_renamed,
    pool_added, pool_removed, pool_renamed, pools_reordered, arrived_from_another_pool, left_where_another_has_it,
)  # fmt: skip
OF_SETTINGS = (queries_changed, queries_changed, budget_changed, mixture_changed, sample_changed, depth_changed, encoder_changed)
Event = tuple[Callable[[World, Draw], None], Draw]


def events(kinds: Sequence[Callable[[World, Draw], None]]) -> st.SearchStrategy[Event]:
    return st.tuples(st.sampled_from(kinds), st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 11), st.sampled_from(HOWS)))


def sequences(*, most_steps: int) -> st.SearchStrategy[list[list[Event]]]:
    one = events([*OF_POOLS, *OF_POOLS, *OF_SETTINGS])
    return st.lists(st.lists(one, min_size=1, max_size=3), min_size=2, max_size=most_steps)


# ---- the world on disk, and what the stages make of it ------------------------------------------------------------------------------------------------


def packed(file: str, lines: list[str]) -> bytes:
    text = "".join(line + "\n" for line in lines).encode()
    return gzip.compress(text, mtime=0) if file.endswith(".gz") else text


def settle(root: Path, world: World) -> None:
    """Bring the files to what the world says; what is only renamed is moved, and what is as it was is not touched."""
    asked = {root / "pools" / pool / file: packed(file, lines) for pool, files in world.pools.items() for file, lines in files.items()}
    asked |= {root / "tasks" / f"{task}.jsonl": packed(task, lines) for task, lines in world.tasks.items()}
    there = {path: path.read_bytes() for path in root.glob("[pt]*s/**/*") if path.is_file()}
    gone = [path for path in there if path not in asked]
    for path, content in asked.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        moved = next((old for old in gone if there[old] == content), None)
        if path not in there and moved is not None:
            moved.rename(path)
            gone.remove(moved)
        elif there.get(path) != content:
            path.write_bytes(content)
    for path in gone:
        path.unlink()


@dataclass(frozen=True)
class Driven:
    """The state after all stages, how many examples were embedded, and the encoder that did."""

    store: TableStore
    embedded: int
    encoder: str


def drive(root: Path, home: Path, world: World) -> Driven:
    """All stages in the order of the asset keys; before that, what the project no longer has is forgotten, as `rds run` does."""
    store, pools, names, tasks = TableStore(Layout(home)), world.pool_settings, list(world.pools), list(world.tasks)
    known = {f"{stage}/{pool}" for stage in ("raw", "clean", "provenance", "unique", "embeddings") for pool in names}
    for manifest in store.all_manifests():
        if manifest.key.split("/")[0] in ("raw", "clean", "provenance", "unique", "embeddings") and manifest.key not in known:
            store.forget(manifest.key)
    for pool in pools:
        record_pool(store, pool, root=root)
        clean_pool(store, pool, CleaningSettings(), root=root)
    unify_pools(store, pools)
    encoder = EncoderSettings(dtype="float32", max_tokens=world.max_tokens, batch_tokens=96)
    _, identity = register_encoder(store, encoder)
    embedded = embed_pools(store, identity, encoder.name, names)
    for task in tasks:
        embed_queries(store, TaskSettings(task, f"tasks/{task}.jsonl"), identity, encoder.name, root=root)
    score_tasks(store, tasks, names, owned_ids(store, names), ScoreSettings(world.depth))
    for name, asked in world.mixtures.items():
        make_mixture(store, MixtureSettings(name, allow_short=True, **asked), names, tasks)
        export_mixture(store, name, ("messages", "parquet"), {pool.name: pool.license for pool in pools})
    return Driven(store, sum(embedded.rows_computed.values()), identity.fingerprint)


# ---- what must be equal -------------------------------------------------------------------------------------------------------------------------------


def versions(home: Path) -> dict[str, bytes]:
    """Every file of every version of every mixture."""
    return {str(path.relative_to(home)): path.read_bytes() for path in (home / "mixtures").glob("*/*/*")}


def messages_of(line: str) -> list[Message] | None:
    """The conversation of a line of JSON Lines; None if it is none."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said["messages"] or None if isinstance(said, dict) else None


def check_against_the_files(world: World, store: TableStore) -> None:
    """The honest slow twin of reading and deduplication: places from the files' lines, and each conversation with the first pool that has it."""
    places: dict[str, set[tuple[bytes, str, int]]] = {}
    keys: dict[str, dict[bytes, bytes]] = {}
    for pool, files in world.pools.items():
        places[pool], keys[pool] = set(), {}
        for file, lines in files.items():
            is_array = file.endswith(".json") and lines[0].startswith("[")
            for number, line in enumerate([json.dumps(element) for element in json.loads(lines[0])] if is_array else lines, 1):
                if messages := messages_of(line):
                    places[pool].add((example_id(messages), file, number))
                    keys[pool][example_id(messages)] = duplicate_key(messages)
    taken: set[bytes] = set()
    for pool in world.pools:
        stand = store.read(store.need(f"provenance/{pool}"), "places").to_pylist()
        assert {(row["id"], row["file"], row["line"]) for row in stand} == places[pool] and len(stand) == len(places[pool])
        first: dict[bytes, bytes] = {}
        for example, key in sorted(keys[pool].items()):
            first.setdefault(key, example)
        owned = {example for key, example in first.items() if key not in taken}
        taken |= first.keys()
        kept = {row["id"] for row in store.read(store.need(f"unique/{pool}"), "kept").to_pylist()}
        assert kept <= owned if pool in world.samples else kept == owned


# ---- sequences without Dagster ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One loaded model that is looked at once, no fsync, and blocks and chunks of a few rows."""
    dims = 160  # of the shipped model
    loaded = cache(load_encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed_pools_module, "load_encoder", loaded)
        patch.setattr(embed_queries_module, "load_encoder", loaded)
        identified = cache(lambda settings: identify(Layout(tmp_path_factory.mktemp("digests")), settings))
        patch.setattr(register_module, "identify", lambda layout, settings: identified(settings))
        patch.setattr(atomic, "_fsync", lambda path: None)
        patch.setattr(embed_pools_module, "CHUNK_ROWS", BLOCK_ROWS)
        patch.setattr(blocks, "BLOCK_BYTES", BLOCK_ROWS * 2 * dims)
        patch.setattr(vectors, "SLICE_BYTES", BLOCK_ROWS * 2 * dims)
        patch.setattr(blocks, "SLICE_BYTES", BLOCK_ROWS * 2 * dims)
        assert blocks.block_rows(dims) == BLOCK_ROWS
        yield


def outcome(root: Path, home: Path, world: World) -> Driven | str:
    """What the stages made, or the words of their refusal."""
    try:
        return drive(root, home, world)
    except RdsError as error:
        return f"{type(error).__name__}: {error}"


@dataclass
class Grown:
    """A folder of files, the state that grows beside it, and what was seen of it so far."""

    root: Path
    states: type
    world: World = field(default_factory=first_world)
    seen_versions: dict[str, bytes] = field(default_factory=dict)
    embedded: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    num_refused: int = 0

    @property
    def home(self) -> Path:
        return self.root / "home"

    def drive(self) -> Driven | str:
        settle(self.root, self.world)
        driven = outcome(self.root, self.home, self.world)
        now = versions(self.home) if (self.home / "mixtures").exists() else {}
        assert {path: now[path] for path in self.seen_versions} == self.seen_versions, "a version never changes"
        self.seen_versions = now
        if isinstance(driven, Driven):
            live = set(owned_ids(driven.store, list(self.world.pools)).tolist())
            assert driven.embedded == len(live - self.embedded[driven.encoder]), "what has a vector is not embedded again"
            self.embedded[driven.encoder] |= live
        return driven

    def step(self, step: list[Event]) -> None:
        """Let the events happen, and compare what follows with a rebuild from nothing."""
        before = set(self.seen_versions)
        for event, draw in step:
            event(self.world, draw)
        grown = self.drive()
        cold_home = self.root / "cold"
        cold = outcome(self.root, cold_home, self.world)
        if isinstance(grown, str) or isinstance(cold, str):
            assert grown == cold
            self.num_refused += 1
        else:
            assert self.states.differences(self.states.of(grown.store), self.states.of(cold.store)) == {}
            made = {path: content for path, content in versions(cold_home).items() if path not in before and not path.endswith("manifest.json")}
            assert {path: self.seen_versions[path] for path in made} == made, "a new version stands by itself as a rebuilt one does"
            check_against_the_files(self.world, grown.store)
        shutil.rmtree(cold_home, ignore_errors=True)


def grow(root: Path, sequence: list[list[Event]], states: type) -> Grown:
    """One sequence from the first world on, and back to it in one step."""
    grown = Grown(root, states)
    first = grown.drive()
    assert isinstance(first, Driven), first
    at_first = states.of(first.store)
    for step in sequence:
        grown.step(step)
    grown.world = first_world()
    back = grown.drive()
    assert isinstance(back, Driven) and back.embedded == 0
    assert states.differences(states.of(back.store), at_first) == {}
    return grown


def grow_often(folder: Path, states: type, *, number: int, num_sequences: int, most_steps: int) -> None:
    """Many sequences of one seed; each in a folder of its own."""
    counts = {"sequences": 0, "steps": 0, "refused": 0}

    @seed(number)
    # without shrinking: minutes, and a failing sequence of a few steps can be read as it is
    @settings(max_examples=num_sequences, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(sequences(most_steps=most_steps))
    def run(sequence: list[list[Event]]) -> None:
        root = folder / str(counts["sequences"])
        counts["sequences"] += 1
        grown = grow(root, sequence, states)
        counts["steps"] += len(sequence)
        counts["refused"] += grown.num_refused
        shutil.rmtree(root)

    run()
    assert counts["sequences"] >= num_sequences
    assert counts["refused"] * 4 < counts["steps"], f"too many steps end in an error to tell much: {counts}"


def test_after_each_step_of_a_few_sequences_the_state_equals_a_rebuild(small_parts: None, states: type, tmp_path: Path) -> None:
    grow_often(tmp_path, states, number=0, num_sequences=5, most_steps=2)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(1, 9))
def test_after_each_step_of_many_sequences_the_state_equals_a_rebuild(small_parts: None, states: type, tmp_path: Path, number: int) -> None:
    """200 sequences in all."""
    grow_often(tmp_path, states, number=number, num_sequences=25, most_steps=3)


def test_a_file_renamed_from_jsonl_to_json_is_read_as_its_new_ending_says(small_parts: None, states: type, tmp_path: Path) -> None:
    grown = Grown(tmp_path, states)
    files = grown.world.pools["towns"]
    files["b.jsonl"] = [record(10, "array")]
    before = grown.drive()
    assert isinstance(before, Driven) and before.store.need("clean/towns").counts.dropped == {"bad_structure": 1, "not_an_object": 1}
    files["c.json"] = files.pop("b.jsonl")
    after = grown.drive()
    assert isinstance(after, Driven) and after.store.need("clean/towns").counts.dropped == {"bad_structure": 1} and after.embedded == 1
    check_against_the_files(grown.world, after.store)


def test_white_space_in_a_query_makes_a_version_that_holds_the_new_words(small_parts: None, states: type, tmp_path: Path) -> None:
    """Its vector, and so the picks and their scores, are the same; the version before keeps the old words."""
    grown = Grown(tmp_path, states)
    before = grown.drive()
    assert isinstance(before, Driven)
    old = before.store.need("mixtures/one_task")
    grown.step([(queries_changed, (0, 5, 0, "plain"))])
    new = before.store.need("mixtures/one_task")
    assert new.fingerprint != old.fingerprint
    assert before.store.read(new, "examples").equals(before.store.read(old, "examples"))
    asked = {version.fingerprint: {row["messages"][0]["content"][-1] for row in before.store.read(version, "queries").to_pylist()} for version in (old, new)}
    assert asked == {old.fingerprint: {"?"}, new.fingerprint: {" "}}


# ---- sequences through Dagster ------------------------------------------------------------------------------------------------------------------------


def write_project(folder: Path, world: World) -> None:
    """The world's files, and the instances that say so."""
    settle(folder, world)
    shutil.rmtree(folder / "assets", ignore_errors=True)
    (folder / "assets").mkdir()
    (folder / "assets" / "__init__.py").touch()
    encoder = {"name": "tiny", "model": "tiny", "dtype": "float32", "max_tokens": world.max_tokens, "batch_tokens": 96}
    instances: dict[str, tuple[str, dict[str, object]]] = {
        "corpus": ("Corpus", {"pools": list(world.pools), "encoder": encoder, "scores": {"depth": world.depth}}),
        **{f"tasks/{name}": ("Task", {"name": name, "queries": f"tasks/{name}.jsonl"}) for name in world.tasks},
    }
    for pool in world.pool_settings:
        sample = {} if pool.sample is None else {"sample": pool.sample}
        instances[f"pools/{pool.name}"] = ("Pool", {"name": pool.name, "source": pool.source, "license": pool.license, **sample})
    for name, asked in world.mixtures.items():
        said = {setting: list(value) if isinstance(value, tuple) else value for setting, value in asked.items()}
        instances[f"mixtures/{name}"] = ("Mixture", {"name": name, "allow_short": True, **said})
    for path, (kind, attributes) in instances.items():
        defs = folder / "assets" / path / "defs.yaml"
        defs.parent.mkdir(parents=True)
        defs.write_text(yaml.safe_dump({"type": f"rds_dagster.components.{kind}", "attributes": attributes}, sort_keys=False))


def run_project(folder: Path, home: Path, at_hand: Callable) -> tuple[WalkResult, list[str]]:
    """What `rds run` does, with the state in ``home``."""
    said: list[str] = []
    with at_hand(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDS_HOME", str(home))
        return run_stale(folder, None, said.append), said


def shuffled_sequences(number: int) -> list[list[list[Event]]]:
    """Five sequences of two steps of two events, in which everything that can happen happens once."""
    random = Random(number)
    kinds = list(dict.fromkeys([*OF_POOLS, *OF_SETTINGS]))
    random.shuffle(kinds)
    drawn: list[Event] = [(kind, (random.randrange(6), random.randrange(6), random.randrange(12), random.choice(HOWS))) for kind in kinds]
    steps = [drawn[start : start + 2] for start in range(0, len(drawn), 2)]
    return [steps[start : start + 2] for start in range(0, len(steps), 2)]


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(5))
def test_after_each_step_a_run_through_dagster_equals_one_in_a_fresh_folder(
    small_parts: None, states: type, at_hand: Callable, tmp_path: Path, number: int
) -> None:
    folder, world = tmp_path / "project", first_world()
    make_project(folder)
    write_project(folder, world)
    first, first_said = run_project(folder, folder / ".rds", at_hand)
    assert first.is_success, "\n".join(first_said)
    for step_number, step in enumerate(shuffled_sequences(0)[number]):
        for event, draw in step:
            event(world, draw)
        write_project(folder, world)
        grown, said = run_project(folder, folder / ".rds", at_hand)
        cold, cold_said = run_project(folder, tmp_path / f"cold-{step_number}" / ".rds", at_hand)
        assert grown.is_success and cold.is_success, "\n".join([*said, *cold_said])
        assert len(grown.made) < len(cold.made)
        homes = (folder / ".rds", tmp_path / f"cold-{step_number}" / ".rds")
        assert states.differences(*(states.of(TableStore(Layout(home))) for home in homes)) == {}
    assert run_project(folder, folder / ".rds", at_hand) == (WalkResult(), [])
