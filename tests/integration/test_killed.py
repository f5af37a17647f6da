"""Runs that are killed with -9 at any moment and started again: the end is the state of an undisturbed run, and nothing stays behind.

A *chain* is a project whose run is killed, whose next run goes on from there and is killed in its turn, and so on until one is left alone. The moments are
drawn at random, with fixed seeds, over all stages: a share of the seconds that a step took undisturbed, or of the operations on files or of Dagster's
events counted in it, right before Dagster is told of an asset whose data are written, and while DuckDB or LanceDB has the database open.

Each run is the `rds run` of a process of its own. Its imports would take most of its time, so this file is also a program: it imports what a run needs,
all but LanceDB, which starts threads, and then forks a process for each run that is asked for on its stdin.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from random import Random

import dagster as dg
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from rds_dagster.cli import main
from rds_dagster.components.check_outcomes import latest_evaluations
from rds_dagster.embeddings import embed_pools
from rds_dagster.lineage.explain import explain
from rds_dagster.runs.instance import open_instance, project_lock
from rds_dagster.runs.loading import load_project
from rds_dagster.runs.orphans import UNFINISHED
from rds_dagster.runs.summary import project_status
from rds_dagster.runs.walk import LEFTOVER_S, WalkResult, run_stale
from rds_dagster.scores import blocks
from rds_dagster.storage.atomic import PARTIAL_VERSION
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.vectors import VectorStore
from rds_dagster.storage.warehouse import Warehouse

# ---- the program: runs that stop at a moment ----------------------------------------------------------------------------------------------------------

NEEDED = ("rds_dagster.definitions", "great_expectations", "torch", "transformers.models.llama.modeling_llama", "matplotlib.pyplot", "sqlglot", "jinja2")
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect"}
SMALL_ROWS = 4  # of a chunk of vectors and of a block of scores, so that 30 examples are several
DIMS = 160  # of the package's model


@dataclass(frozen=True)
class Tick:
    """Something that a run did: ``clock`` is its kind, ``step`` the step in progress, None between steps; ``at`` is seconds since the run began."""

    clock: str
    step: str | None
    at: float


@dataclass(frozen=True)
class Stop:
    """``delay_s`` seconds after the ``number``-th tick (1 is the first) of ``clock`` in ``step``, ``signal`` is sent; at the latest when the step ends.

    Without delay that tick never ends.
    """

    clock: str
    step: str | None
    number: int
    delay_s: float
    signal: int


class Watch:
    """Writes down each tick of this process, before what it stands for happens, and stops the process at the moment asked for."""

    def __init__(self, home: Path, ticks: Path, stop: Stop | None) -> None:
        self.home, self.stop, self.began = f"{home}/", stop, time.monotonic()
        self.file = os.open(ticks, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self.step: str | None = None
        self.is_late = False  # the tick has come, the signal not yet
        self.counts = Counter[tuple[str, str | None]]()

    def tick(self, clock: str) -> None:
        os.write(self.file, f"{json.dumps(asdict(Tick(clock, self.step, time.monotonic() - self.began)))}\n".encode())
        self.counts[clock, self.step] += 1
        stop = self.stop
        if stop and (clock, self.step) == (stop.clock, stop.step) and self.counts[clock, self.step] == stop.number:
            if stop.delay_s:
                self.is_late = True
                timer = threading.Timer(stop.delay_s, os.kill, [os.getpid(), stop.signal])
                timer.daemon = True
                timer.start()
            else:
                os.kill(os.getpid(), stop.signal)

    def begin(self, step: str | None) -> None:
        if self.stop and self.is_late:
            os.kill(os.getpid(), self.stop.signal)
        self.step = step
        self.tick("begin")

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in FILE_EVENTS and threading.current_thread() is threading.main_thread() and str(arguments[0]).startswith(self.home):
            self.tick("file")


def watch(watch: Watch) -> None:
    """From now on this process ticks: files of the state, Dagster's events, materializations about to be recorded, appends, the open warehouse."""
    record, append, connect, land = dg.DagsterInstance.handle_new_event, VectorStore.append, duckdb.connect, Warehouse.land

    def recorded(instance: dg.DagsterInstance, event: dg.EventLogEntry, **how: object) -> None:
        kind = event.dagster_event.event_type if event.dagster_event else None
        if kind == dg.DagsterEventType.STEP_START:
            watch.begin(event.step_key)
        watch.tick("event")
        if kind == dg.DagsterEventType.ASSET_MATERIALIZATION:
            watch.tick("record")
        record(instance, event, **how)
        if kind in (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE):
            watch.begin(None)

    def appended(store: VectorStore, *columns: object) -> None:
        watch.tick("vectors")
        append(store, *columns)
        watch.tick("vectors closed")

    def connected(where: str) -> duckdb.DuckDBPyConnection:
        connection = connect(where)
        if where != ":memory:":
            watch.tick("warehouse")
        return connection

    def landed(warehouse: Warehouse) -> None:
        land(warehouse)
        watch.tick("warehouse closed")

    dg.DagsterInstance.handle_new_event, VectorStore.append = recorded, appended
    duckdb.connect, Warehouse.land = connected, landed
    sys.addaudithook(watch.audit)
    watch.begin(None)


def run_in_this_process(folder: Path, ticks: Path, said: Path, stop: Stop | None) -> int:
    """`rds run` with chunks and blocks of a few rows; what it says goes to a file. Returns its exit status."""
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    embed_pools.CHUNK_ROWS, blocks.BLOCK_BYTES = SMALL_ROWS, SMALL_ROWS * 2 * DIMS
    watch(Watch(folder / ".rds", ticks, stop))
    try:
        main(["--project", str(folder), "run"])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def serve() -> None:
    """For each line on stdin a forked process; on stdout a line when it is stopped, and one when it has ended."""
    for module in NEEDED:
        import_module(module)
    threads = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    others = [name for name in threads[1:] if name != "jemalloc_bg_thd"]  # of Arrow's allocator, which is made for forks
    assert not others, f"what is forked from here may hang: there are the threads {others}"
    say({"ready": os.getpid()})
    for line in sys.stdin:
        asked = json.loads(line)
        stop = Stop(**asked["stop"]) if asked["stop"] else None
        process = os.fork()
        if process == 0:
            status = 1
            try:
                status = run_in_this_process(Path(asked["folder"]), Path(asked["ticks"]), Path(asked["said"]), stop)
            finally:  # what was forked must not go on here
                if sys.exception():
                    traceback.print_exc()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitpid(process, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status):
            say({"stopped": process})
            status = os.waitpid(process, 0)[1]
        say({"status": os.waitstatus_to_exitcode(status)})


def say(answer: dict[str, int]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
    sys.exit()


# ---- its client ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run that has ended: its exit status (negative: the signal), what it did, and what it said."""

    status: int
    ticks: list[Tick]
    said: str


class Runs:
    """Starts runs of the program above, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.files = {"ticks": folder / "ticks.jsonl", "said": folder / "said.txt"}
        environment = {name: value for name, value in os.environ.items() if name not in ("RDS_HOME", "RDS_PROJECT", "DAGSTER_HOME")}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert "ready" in self.answer()

    def answer(self) -> dict[str, int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program of runs ended"
        return json.loads(line)

    def start(self, folder: Path, stop: Stop | None = None) -> None:
        assert self.process.stdin is not None
        asked = {"folder": str(folder), "stop": asdict(stop) if stop else None, **{name: str(path) for name, path in self.files.items()}}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def ended(self) -> Run:
        answer = self.answer()
        ticks = [Tick(**json.loads(line)) for line in self.files["ticks"].read_text().splitlines()]
        return Run(answer["status"], ticks, self.files["said"].read_text())

    def run(self, folder: Path, stop: Stop | None = None) -> Run:
        self.start(folder, stop)
        return self.ended()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    if not sys.platform.startswith("linux"):
        pytest.skip("runs are forked from a process whose threads are counted in /proc")
    started = Runs(tmp_path_factory.mktemp("runs"))
    yield started
    os.killpg(started.process.pid, signal.SIGKILL)  # whatever it forked goes with it
    started.process.wait()
    started.process.stdin.close()
    started.process.stdout.close()


# ---- scenes and moments -------------------------------------------------------------------------------------------------------------------------------

EXACT = ("file", "event", "record")
SEED = 7
MOST_OPEN = 0.7  # of the time for which a database was open: it should still be when the kill comes
CHAINS = {
    "from nothing": (
        ("raw__sums", "unique", "scores", "exports__best"),
        ("clean_towns", "embeddings", "mixtures__best", "reports__best"),
        ("queries__adding", "scores", "mixtures__adding_only", "exports__adding_only"),
        ("raw__towns", "clean_towns", "embeddings", "reports__overlap"),
        ("encoders__tiny", "embeddings", "scores", "mixtures__best", "exports__best"),
        ("check__clean__sums", "check__embeddings__towns", "check__mixtures__best"),
    ),
    "growth": (
        ("raw__sums", "unique", "embeddings", "mixtures__best"),
        ("clean_sums", "embeddings", "scores", "exports__best"),
        ("queries__adding", "scores", "mixtures__adding_only", "reports__overlap"),
        ("raw__towns", "clean_towns", "unique", "exports__by_chance"),
        ("unique", "embeddings", "scores", "mixtures__best", "reports__best"),
        ("check__clean__sums", "check__embeddings__sums", "check__scores__rds__adding"),
    ),
}
"""Scene -> steps in each of which one run of a chain is killed. Each step stands below the one before it, so it is still to be done after that one's kill."""


@dataclass(frozen=True)
class Moment:
    """When a run is killed: in a step (None: before the first one), when a ``part`` of what the clock counts there has passed."""

    step: str | None
    clock: str
    part: float


@dataclass(frozen=True)
class Scene:
    """A project folder as it is before the run, the folder after an undisturbed one, and what that run did."""

    before: Path
    after: Path
    ticks: list[Tick]

    def stop(self, moment: Moment) -> Stop:
        """The moment as this run counted."""
        of_step = [tick for tick in self.ticks if tick.step == moment.step]
        ticks = of_step if moment.step else list(takewhile(lambda tick: tick.step is None, self.ticks))
        assert ticks, f"the undisturbed run has no step {moment.step}"
        if moment.clock == "seconds":
            end = self.ticks[self.ticks.index(ticks[-1]) + 1]
            return Stop("begin", moment.step, 1, moment.part * (end.at - ticks[0].at), signal.SIGKILL)
        counted = [tick for tick in ticks if tick.clock == moment.clock]
        assert counted, f"the undisturbed run has no {moment.clock} in {moment.step}"
        number = int(moment.part * len(counted))
        open_s = 0.0
        if moment.clock not in EXACT:
            closed = next(tick.at for tick in ticks if tick.at >= counted[number].at and tick.clock == f"{moment.clock} closed")
            open_s = MOST_OPEN * (closed - counted[number].at)
        return Stop(moment.clock, moment.step, 1 + number, moment.part * open_s, signal.SIGKILL)


def drawn(scene: str, number: int) -> list[Moment]:
    """The moments of one chain. The first run is killed before its first step, and so is the one that comes after all others were killed in theirs."""
    random = Random(f"{SEED} {scene} {number}")
    moments = [Moment(None, random.choice(("file", "seconds")), random.random())]
    for step in CHAINS[scene][number]:
        open_clocks = {"embeddings": ("vectors", "vectors"), "scores": ("warehouse", "warehouse")}.get(step, ())
        clocks = ("event", "seconds") if step.startswith("check") else (*EXACT, "record", *open_clocks, "seconds")
        moments.append(Moment(step, random.choice(clocks), random.random()))
    return [*moments, Moment(None, "seconds", random.random())]


DRAWN = {(scene, number): drawn(scene, number) for scene, chains in CHAINS.items() for number in range(len(chains))}


def edit(defs: Path, **attributes: object) -> None:
    """Change attributes of an instance's YAML."""
    said = yaml.safe_load(defs.read_text())
    said["attributes"].update(attributes)
    defs.write_text(yaml.safe_dump(said, sort_keys=False))


def record(question: str, answer: str, **more: str) -> str:
    return json.dumps({**more, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}) + "\n"


def grow(folder: Path) -> None:
    """Files of two pools change (rows come, one goes), a task's queries and a mixture's budget."""
    with (folder / "data" / "sums.jsonl").open("a") as file:
        file.write("".join(record(f"What is {n} plus {n}?", f"{n} plus {n} is {2 * n}.") for n in range(90, 97)))
    towns = folder / "data" / "towns.jsonl"
    towns.write_text("".join([*towns.read_text().splitlines(keepends=True)[1:], record("Name the capital of the sea.", "It is called Deep Town.")]))
    with (folder / "data" / "adding.jsonl").open("a") as file:
        file.write(record("What is 91 plus 1?", "91 plus 1 is 92.", id="a91"))
    edit(folder / "assets" / "mixtures" / "best" / "defs.yaml", budget=11)


@pytest.fixture(scope="module")
def scenes(runs: Runs, tiny_project: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    root = tmp_path_factory.mktemp("scenes")
    new = root / "from nothing" / "tiny"
    tiny_project(new)
    encoder = {"name": "tiny", "model": "tiny", "dtype": "float32", "max_tokens": 64, "batch_tokens": 96}  # small batches, so that chunks are small
    edit(new / "assets" / "corpus" / "defs.yaml", encoder=encoder)
    built = undisturbed(runs, new)
    grown = Path(shutil.copytree(built.after, root / "growth" / "tiny"))
    grow(grown)
    return {"from nothing": built, "growth": undisturbed(runs, grown)}


def undisturbed(runs: Runs, before: Path) -> Scene:
    after = Path(shutil.copytree(before, before.with_name("after") / "tiny"))
    run = runs.run(after)
    assert run.status == 0, run.said
    return Scene(before, after, run.ticks)


# ---- what must hold -----------------------------------------------------------------------------------------------------------------------------------


def store_of(folder: Path) -> TableStore:
    return TableStore(Layout(folder / ".rds"))


def refuse_half_written(folder: Path) -> None:
    """What can be read after a kill is whole: every file of every manifest has its rows, no id has two vectors, each mixture can be explained."""
    store = store_of(folder)
    for manifest in store.all_manifests():
        for file in manifest.files:
            path = store.layout.home / file.path
            assert path.suffix != ".parquet" or pq.read_metadata(path).num_rows == file.rows
    if store.manifest("encoders/tiny"):
        ids, _ = vectors_of(folder)
        assert len(np.unique(ids)) == len(ids)
    for mixture in store.manifests("mixtures"):
        example = store.ids(mixture, "examples")[0]
        assert explain(store, mixture.key.split("/")[1], bytes(example).ljust(16, b"\0").hex()).version == mixture.fingerprint


def vectors_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N,) S16 as they are stored, and vectors (N, D) float16."""
    encoder = store_of(folder).need("encoders/tiny")
    vectors = VectorStore(Layout(folder / ".rds"), encoder.fingerprint, DIMS)
    ids = vectors.ids()
    rows = [row["vector"] for batch in vectors.stream(["vector"]) for row in batch.to_pylist()]
    return ids, np.array(rows, np.float16).reshape(len(ids), DIMS)


def warehouse_rows(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table and view of the DuckDB file, sorted."""
    with Warehouse(Layout(folder / ".rds")).connect(1.0) as connection:
        names = connection.execute("select table_schema, table_name from information_schema.tables").fetchall()
        return {f"{schema}.{name}": connection.execute(f'select * from "{schema}"."{name}" order by all').fetchall() for schema, name in names}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every shard, version, export and report; of manifests, which say what lay upstream when they were written, the names alone."""
    home, found = folder / ".rds", {}
    for part in ("shards", "mixtures", "exports", "reports"):
        for path in (home / part).rglob("*"):
            is_half_written = any(name.startswith(".") for name in path.relative_to(home).parts)
            if path.is_file() and not is_half_written:
                found[str(path.relative_to(home))] = b"" if path.name == "manifest.json" else path.read_bytes()
    return found


def refuse_leftovers(folder: Path, at_hand: Callable) -> None:
    """Nothing is stale, no Dagster run is open, no slot is taken, no lock is held, and the next run sweeps up what is half-written, once it is old."""
    layout = Layout(folder / ".rds")
    old = time.time() - 2 * LEFTOVER_S
    for path in layout.home.rglob("*"):
        os.utime(path, (old, old))
    with at_hand(folder):
        status, said = project_status(folder), []
        assert (status.stale, status.following, status.failing_checks) == ({}, [], [])
        assert run_stale(folder, None, said.append) == WalkResult()
        assert said == []
        with project_lock(layout, 1.0), open_instance(layout) as instance:
            assert instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED, dg.DagsterRunStatus.QUEUED])) == []
            storage = instance.event_log_storage
            for slots in (storage.get_concurrency_info(key) for key in storage.get_concurrency_keys()):
                assert (slots.active_slot_count, slots.pending_step_count) == (0, 0)
    for path in layout.locks.glob("*.lock"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not [path for path in layout.home.rglob(".*") if path.name.endswith(".partial") or PARTIAL_VERSION.fullmatch(path.name)]


def checks_of(folder: Path, at_hand: Callable) -> dict[str, bool]:
    """Whether each check passed when it last looked."""
    with at_hand(folder):
        checks = load_project(folder).graph.asset_check_keys
        with open_instance(Layout(folder / ".rds")) as instance:
            return {key.to_user_string(): said.passed for key, said in latest_evaluations(instance, checks).items()}


def refuse_difference(folder: Path, expected: Path, states: type, at_hand: Callable) -> None:
    """The state is that of the undisturbed run, row for row and byte for byte, and so is what the checks say of it."""
    assert checks_of(folder, at_hand) == checks_of(expected, at_hand)
    assert states.differences(states.of(store_of(folder)), states.of(store_of(expected))) == {}
    some, others = files_of(folder), files_of(expected)
    assert some.keys() == others.keys()
    assert [path for path in some if some[path] != others[path]] == []
    (ids, vectors), (expected_ids, expected_vectors) = vectors_of(folder), vectors_of(expected)
    order, expected_order = np.argsort(ids), np.argsort(expected_ids)
    assert len(np.unique(ids)) == len(ids)
    assert (ids[order] == expected_ids[expected_order]).all()
    assert (vectors[order] == expected_vectors[expected_order]).all()
    assert warehouse_rows(folder) == warehouse_rows(expected)


# ---- killed -------------------------------------------------------------------------------------------------------------------------------------------


def test_the_draw_kills_in_every_stage_and_on_every_clock() -> None:
    every = [moment for moments in DRAWN.values() for moment in moments]
    assert len(every) >= 32
    for scene in CHAINS:
        moments = [moment for (name, _), drawn_moments in DRAWN.items() if name == scene for moment in drawn_moments]
        exact = {moment.step.split("_")[0] for moment in moments if moment.step and moment.clock != "seconds"}
        assert exact >= {"raw", "clean", "unique", "embeddings", "scores", "mixtures", "exports", "check"}
        assert {moment.clock for moment in moments} >= {*EXACT, "seconds", "vectors", "warehouse"}


@pytest.mark.slow
@pytest.mark.timeout(600)  # of which the two scenes, made once, can take a part
@pytest.mark.parametrize(("scene", "number"), DRAWN, ids=[f"{scene}-{number}" for scene, number in DRAWN])
def test_killed_runs_end_in_the_state_of_an_undisturbed_one(
    scene: str, number: int, runs: Runs, scenes: dict[str, Scene], states: type, at_hand: Callable, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(scenes[scene].before, tmp_path / "tiny"))
    said = ""
    for moment in DRAWN[scene, number]:
        killed = runs.run(folder, scenes[scene].stop(moment))
        said += killed.said
        assert killed.status == -signal.SIGKILL, f"{moment} never came, or the run failed: draw another\n{killed.said}"
        if moment.clock != "seconds":
            assert killed.ticks[-1].step == moment.step
        if moment.clock == "warehouse":
            assert (folder / ".rds" / "locks" / "warehouse.holder.json").exists(), "it was open"
        refuse_half_written(folder)
    last = runs.run(folder)
    said += last.said
    assert last.status == 0, last.said
    assert "Traceback" not in said
    with at_hand(folder), open_instance(Layout(folder / ".rds")) as instance:
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert said.count("was killed; marked as failed") == len(failed) >= len(CHAINS[scene][number])
    refuse_difference(folder, scenes[scene].after, states, at_hand)
    refuse_leftovers(folder, at_hand)


# ---- beside a run, on a full disk, on a read-only one -------------------------------------------------------------------------------------------------


def rds(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def first_example(folder: Path, mixture: str) -> str:
    store = store_of(folder)
    return bytes(store.ids(store.need(f"mixtures/{mixture}"), "examples")[0]).ljust(16, b"\0").hex()


def refuse_unreadable(folder: Path, like: Path, to: Path, at_hand: Callable) -> None:
    """Explain and export of the last version answer as in the folder that nobody disturbed."""
    refuse_half_written(folder)
    example = first_example(like, "best")
    with at_hand(like):
        expected = rds("explain", "best", example)
        assert rds("export", "best", "--version", "current", "--to", to / "expected").exit_code == 0
    with at_hand(folder):
        said = rds("explain", "best", example)
        assert (said.exit_code, said.stdout) == (0, expected.stdout), said.stderr
        assert rds("export", "best", "--version", "current", "--to", to / "found").exit_code == 0
    exported = [{path.name: path.read_bytes() for path in (to / name).glob("*.jsonl")} for name in ("found", "expected")]
    assert exported[0] == exported[1] and len(exported[0]) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)  # of which the two scenes, made once, can take a part
def test_beside_a_run_one_can_look_and_a_second_run_says_who_holds_the_project(
    runs: Runs, scenes: dict[str, Scene], states: type, at_hand: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is held up while it has the warehouse open."""
    monkeypatch.setattr("rds_dagster.runs.walk.LOCK_TIMEOUT_S", 0.2)
    folder = Path(shutil.copytree(scenes["growth"].before, tmp_path / "tiny"))
    runs.start(folder, Stop("warehouse", "scores", 1, 0.0, signal.SIGSTOP))
    process = runs.answer()["stopped"]
    try:
        with at_hand(folder):
            second = rds("run")
            assert second.exit_code == 1
            assert f"BusyError: the project state {folder}/.rds is held by process {process} (" in second.stderr
            status = rds("status", "--json")
            assert status.exit_code == 0, status.stderr
            assert "scores/rds/adding" in json.loads(status.stdout)["stale"]
        refuse_unreadable(folder, scenes["growth"].before, tmp_path, at_hand)
    finally:
        os.kill(process, signal.SIGCONT)
        first = runs.ended()
    assert first.status == 0, first.said
    refuse_difference(folder, scenes["growth"].after, states, at_hand)


def remount(disk: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(disk)], check=True)


@pytest.fixture
def folder_on_disk(small_disk: Path, scenes: dict[str, Scene]) -> Path:
    remount(small_disk, "size=64m")
    return Path(shutil.copytree(scenes["growth"].before, small_disk / "tiny"))


def fill(disk: Path, *, left: int) -> Path:
    """A file that leaves so many KiB of a disk free."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - left * 1024))
    return filler


@pytest.mark.slow
@pytest.mark.timeout(600)  # of which the two scenes, made once, can take a part
def test_on_a_full_disk_a_run_fails_with_the_mend_and_the_next_one_goes_on_once_there_is_space(
    folder_on_disk: Path, runs: Runs, scenes: dict[str, Scene], states: type, at_hand: Callable, tmp_path: Path
) -> None:
    """With little space left Dagster's own records are what does not fit, with more the shard of a large file."""
    disk, chat, random = folder_on_disk.parent, folder_on_disk / "data" / "chat.jsonl", Random(0)
    for left in (0, 160, 2000):
        filler = fill(disk, left=left)
        full = runs.run(folder_on_disk)
        assert full.status == 1, full.said
        assert re.search(r"StateError: .*free space.* and run again.*the last good state is untouched", full.said), full.said
        assert "Traceback" not in full.said, full.said
        refuse_unreadable(folder_on_disk, scenes["growth"].before, tmp_path / str(left), at_hand)
        filler.unlink()
    before = chat.read_text()
    chat.write_text(before + "".join(record(f"Read {n}.", random.randbytes(600).hex()) for n in range(25_000)))
    filler = fill(disk, left=9 * 1024)
    full = runs.run(folder_on_disk)
    assert full.status == 1, full.said
    assert re.search(r"✗ clean/chat: StateError: the disk is full while writing .*; free space and run again, the last good state is untouched", full.said)
    refuse_unreadable(folder_on_disk, scenes["growth"].before, tmp_path / "large", at_hand)
    filler.unlink()
    chat.write_text(before)
    last = runs.run(folder_on_disk)
    assert last.status == 0, last.said
    refuse_difference(folder_on_disk, scenes["growth"].after, states, at_hand)
    refuse_leftovers(folder_on_disk, at_hand)


@pytest.mark.slow
@pytest.mark.timeout(600)  # of which the two scenes, made once, can take a part
def test_on_a_read_only_disk_a_run_fails_with_the_mend_and_the_state_can_be_read(
    folder_on_disk: Path, runs: Runs, scenes: dict[str, Scene], states: type, at_hand: Callable, tmp_path: Path
) -> None:
    disk = folder_on_disk.parent
    remount(disk, "ro")
    refused = runs.run(folder_on_disk)
    assert refused.status == 1, refused.said
    assert f"StateError: {folder_on_disk}/.rds/locks cannot be written (Read-only file system); make it writable or set RDS_HOME" in refused.said
    assert "Traceback" not in refused.said
    refuse_unreadable(folder_on_disk, scenes["growth"].before, tmp_path, at_hand)
    remount(disk, "rw")
    last = runs.run(folder_on_disk)
    assert last.status == 0, last.said
    refuse_difference(folder_on_disk, scenes["growth"].after, states, at_hand)
