"""What all tests share: no network, no telemetry, a small real causal model, and the folder of real data."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers of pytest-xdist on two cores; more threads than cores cost threefold
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np

    from rds_dagster.cleaning.clean import CleanPool
    from rds_dagster.cleaning.settings import CleaningSettings
    from rds_dagster.embeddings.embed_pools import EmbeddedPools
    from rds_dagster.embeddings.settings import EncoderSettings
    from rds_dagster.mixtures.make_mixture import MadeMixture
    from rds_dagster.pools.settings import PoolSettings
    from rds_dagster.scores.score_tasks import ScoredTasks
    from rds_dagster.storage.manifest import Manifest
    from rds_dagster.storage.tables import TableStore
    from rds_dagster.storage.vectors import VectorStore

SENTENCES = [
    "<|user|>\nWhat is the sum of 12 and 30?\n<|assistant|>\nThe sum of 12 and 30 is 42.",
    "<|system|>\nYou answer in one sentence.\n<|user|>\nWhy is the sky blue?\n<|assistant|>\nAir scatters short waves of light more than long ones.",
    "<|user|>\nWrite a function that doubles a number.\n<|assistant|>\ndef double(x):\n    return 2 * x",
    "<|user|>\nTranslate to German: good morning, how are you?\n<|assistant|>\nGuten Morgen, wie geht es dir?",
]


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real causal language model: a Llama of 2 layers, 64 wide, random weights (seed 0), and a byte-level BPE tokenizer.

    The tokenizer puts ``<s>`` in front, has ``</s>`` as its end-of-text token and, like Llama's own, no padding token. Do not write to it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = _train_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,  # large enough that a token's state depends on the tokens before it
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that RDS_REAL_DATA names (pool/, tasks/)."""
    named = os.environ.get("RDS_REAL_DATA")
    if not named:
        pytest.skip("RDS_REAL_DATA is not set; it names the folder of real data (see benchmarks/real/README.md)")
    return Path(named)


@dataclass(frozen=True)
class BuiltProject:
    """A tiny project folder after its first run, and what that run made and said."""

    folder: Path
    made: tuple[str, ...]
    said: tuple[str, ...]


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory) -> BuiltProject:
    """A project of three pools (30 conversations), two tasks and three mixtures, made from nothing once. Do not write to it: `own_project` is a copy."""
    from rds_dagster.runs.walk import run_stale

    folder = tmp_path_factory.mktemp("projects") / "tiny"
    write_tiny_project(folder)
    said: list[str] = []
    with _at_hand(folder):
        result = run_stale(folder, None, said.append)
    assert result.is_success, "\n".join(said)
    return BuiltProject(folder, tuple(result.made), tuple(said))


@pytest.fixture
def own_project(built_project: BuiltProject, tmp_path: Path) -> Iterator[Path]:
    """A copy of the built project with its state, to change at will; it is the project at hand of this process."""
    folder = tmp_path / "tiny"
    shutil.copytree(built_project.folder, folder)
    with _at_hand(folder):
        yield folder


@pytest.fixture
def new_project(tmp_path: Path) -> Iterator[Path]:
    """The same project before its first run."""
    folder = tmp_path / "tiny"
    write_tiny_project(folder)
    with _at_hand(folder):
        yield folder


@pytest.fixture
def at_hand() -> Callable[[Path], AbstractContextManager[None]]:
    """A context in which a folder is the project at hand of this process, as if it were a new one."""
    return _at_hand


@contextmanager
def _at_hand(folder: Path) -> Iterator[None]:
    """Each process has one project: what Python keeps of the last one (its package `assets`, the path, the environment) is put away meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        for name in [name for name in sys.modules if name.split(".")[0] == "assets"]:
            patch.delitem(sys.modules, name)
        for name in ("RDS_HOME", "DAGSTER_HOME"):
            patch.setenv(name, "put back afterwards")
            patch.delenv(name)
        patch.setenv("RDS_PROJECT", str(folder))
        yield
        for name in [name for name in sys.modules if name.split(".")[0] == "assets"]:
            del sys.modules[name]


def write_tiny_project(folder: Path) -> None:
    """Sums, towns and chat; one sum stands in chat again, and one record of chat is broken."""
    import yaml

    from rds_dagster.runs.new_project import make_project

    make_project(folder)
    sums = [_asked(f"What is {n} plus {n + 3}?", f"{n} plus {n + 3} is {2 * n + 3}.") for n in range(12)]
    towns = [_asked(f"Name town number {n} on the map.", f"Town {n} is called Upper {name}.") for n, name in enumerate("ABCDEFGHIJ")]
    chat = [_asked(f"Tell me {n} things about the sea.", f"The sea is wide and {n} gulls fly over it.") for n in range(8)]
    files = {
        "data/sums.jsonl": sums,
        "data/towns.jsonl": towns,
        "data/chat.jsonl": [*chat, sums[0], {"messages": []}],
        "data/adding.jsonl": [{"id": f"a{n}", **_asked(f"What is {n} plus 1?", f"{n} plus 1 is {n + 1}.")} for n in (21, 32, 43)],
        "data/adding.test.jsonl": [_asked("What is 55 plus 1?", "56.")],
        "data/places.jsonl": [{"id": f"p{n}", **_asked(f"Which town is number {n}?", f"Town {n} is Lower {n}.")} for n in (5, 6)],
    }
    for path, records in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("".join(json.dumps(record) + "\n" for record in records))
    instances = {
        "corpus": ("Corpus", {"pools": ["sums", "towns"], "encoder": {"name": "tiny", "model": "tiny", "dtype": "float32", "max_tokens": 64}}),
        "mixtures/adding_only": ("Mixture", {"name": "adding_only", "budget": 5, "tasks": ["adding"], "on_taken": "next_best"}),
        "mixtures/best": ("Mixture", {"name": "best", "budget": 9, "compare_with": "by_chance"}),
        "mixtures/by_chance": ("Mixture", {"name": "by_chance", "budget": 9, "method": "random"}),
        "tasks/adding": ("Task", {"name": "adding", "queries": "data/adding.jsonl", "test_items": "data/adding.test.jsonl"}),
        "tasks/places": ("Task", {"name": "places", "queries": "data/places.jsonl"}),
        **{f"pools/{name}": ("Pool", {"name": name, "source": f"data/{name}.jsonl"}) for name in ("sums", "towns", "chat")},
    }
    for path, (kind, attributes) in instances.items():
        defs = folder / "assets" / path / "defs.yaml"
        defs.parent.mkdir(parents=True, exist_ok=True)
        defs.write_text(yaml.safe_dump({"type": f"rds_dagster.components.{kind}", "attributes": attributes}, sort_keys=False))


def _asked(question: str, answer: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _train_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@dataclass(frozen=True)
class PoolFolder:
    """A folder of pool files beside the state made from them, and the stages from files to clean pools, without Dagster."""

    root: Path

    @property
    def store(self) -> "TableStore":
        from rds_dagster.storage.layout import Layout
        from rds_dagster.storage.tables import TableStore

        return TableStore(Layout(self.root / ".rds"))

    def write(self, file: str, *records: "dict[str, object] | bytes") -> Path:
        """Write a file of one record a line, bytes as they are; a name in .gz is compressed."""
        lines = b"".join((record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n" for record in records)
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(lines) if file.endswith(".gz") else lines)
        return path

    def clean(self, pool: "PoolSettings", cleaning: "CleaningSettings | None" = None) -> "CleanPool":
        """Look at a pool, then clean it."""
        from rds_dagster.cleaning.clean import clean_pool
        from rds_dagster.cleaning.settings import CleaningSettings
        from rds_dagster.pools.look import record_pool

        record_pool(self.store, pool, root=self.root)
        return clean_pool(self.store, pool, cleaning or CleaningSettings(), root=self.root)

    def rows(self, manifest: "Manifest", table: str) -> list[dict[str, object]]:
        """The rows of one table of a manifest."""
        return self.store.read(manifest, table).to_pylist()


@pytest.fixture
def pool_folder(tmp_path: Path) -> PoolFolder:
    """An empty one."""
    return PoolFolder(tmp_path)


OF_THE_MAKING = {"upstream", "licenses", "files", "state", "blocks"}
"""Details that say what lay upstream when an asset was made, when its files were written, and in which blocks its vectors came."""


class States:
    """What must be equal in two states that were made from equal files."""

    @staticmethod
    def of(store: "TableStore") -> dict[str, object]:
        """Every row of every table, and every byte of every mixture and export; by asset."""
        return {manifest.key: _of_asset(store, manifest) for manifest in store.all_manifests()}

    @staticmethod
    def differences(some: dict[str, object], others: dict[str, object]) -> dict[str, object]:
        """Asset -> what is different, both ways; empty where all is equal."""
        found: dict[str, object] = {}
        for key in some.keys() | others.keys():
            one, other = some.get(key), others.get(key)
            if one != other:
                parts = one.keys() & other.keys() if isinstance(one, dict) and isinstance(other, dict) else ()
                found[key] = {part: (one[part], other[part]) for part in parts if one[part] != other[part]} or (one is not None, other is not None)
        return found


def _of_asset(store: "TableStore", manifest: "Manifest") -> dict[str, object]:
    from rds_dagster.fingerprint import content_digest

    said = {name: getattr(manifest, name) for name in ("fingerprint", "recipe", "settings", "parents", "counts")}
    said["details"] = {name: value for name, value in manifest.details.items() if name not in OF_THE_MAKING}
    if manifest.key.startswith("scores/"):
        scores = store.read(manifest, "scores").sort_by("id").to_pylist() if manifest.paths("scores") else []
        said["scores"] = scores
    whole = [file for file in manifest.files if file.table not in ("scores", "provenance")]
    said["files"] = {file.path: (file.table, file.rows, content_digest((store.layout.home / file.path).read_bytes())) for file in whole}
    return said


@pytest.fixture(scope="session")
def states() -> type[States]:
    """How two states are compared."""
    return States


@pytest.fixture(scope="session")
def tiny_project() -> Callable[[Path], None]:
    """``write_tiny_project``: the project of ``built_project``, into an empty folder."""
    return write_tiny_project


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process of some code with some arguments, and wait until it prints a line; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline(), "the process ended before it said a word"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own; `mount -o remount,ro` makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs Linux and root")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@dataclass(frozen=True)
class Flow:
    """One drive through all stages without Dagster: where it read and wrote, and what the stages said; names of pools and tasks in their order."""

    root: Path
    store: "TableStore"
    encoder: "EncoderSettings"
    pools: tuple[str, ...]
    tasks: tuple[str, ...]
    embedded: "EmbeddedPools"
    encoded_queries: dict[str, int]
    scored: "ScoredTasks"
    mixtures: dict[str, "MadeMixture"]
    exports: dict[str, "Manifest"]

    @property
    def live(self) -> "np.ndarray":
        """The ids that unique/* keeps, (N,) S16, sorted."""
        from rds_dagster.cleaning.unique import owned_ids

        return owned_ids(self.store, self.pools)

    @property
    def live_bytes(self) -> list[bytes]:
        """The same ids as 16 bytes each; one of them ends in a zero byte, which numpy drops when it makes ``bytes`` of S16."""
        return [example.ljust(16, b"\0") for example in self.live.tolist()]

    def vectors(self) -> "VectorStore":
        """The stored vectors."""
        from rds_dagster.scores.space import vector_store

        return vector_store(self.store, [self.store.need(f"embeddings/{pool}") for pool in self.pools])

    def make(self, name: str, budget: int, **settings: object) -> "MadeMixture":
        """Make one more mixture."""
        from rds_dagster.mixtures.make_mixture import make_mixture
        from rds_dagster.mixtures.settings import MixtureSettings

        return make_mixture(self.store, MixtureSettings(name, budget, **settings), self.pools, self.tasks)


FLOW_POOLS = ("sums", "towns", "chat")
FLOW_TASKS = ("adding", "places")
FLOW_MIXTURES = (("best", {"budget": 9}), ("by_chance", {"budget": 9, "method": "random"}))


def drive_flow(
    root: Path, home: Path, encoder: "EncoderSettings", *, pools=FLOW_POOLS, mixtures=FLOW_MIXTURES, depth: int = 256, formats=("messages", "parquet")
) -> Flow:
    """Call each stage once, in the order of the asset keys, on what ``write_flow_data`` wrote into ``root``; state goes to ``home``."""
    from rds_dagster.cleaning.clean import clean_pool
    from rds_dagster.cleaning.settings import CleaningSettings
    from rds_dagster.cleaning.unique import owned_ids, unify_pools
    from rds_dagster.embeddings.embed_pools import embed_pools
    from rds_dagster.embeddings.embed_queries import embed_queries
    from rds_dagster.embeddings.register import register_encoder
    from rds_dagster.exports.export_mixture import export_mixture
    from rds_dagster.mixtures.make_mixture import make_mixture
    from rds_dagster.mixtures.settings import MixtureSettings
    from rds_dagster.pools.look import record_pool
    from rds_dagster.pools.settings import PoolSettings
    from rds_dagster.queries.settings import TaskSettings
    from rds_dagster.scores.score_tasks import score_tasks
    from rds_dagster.scores.settings import ScoreSettings
    from rds_dagster.storage.layout import Layout
    from rds_dagster.storage.tables import TableStore

    store = TableStore(Layout(home))
    settings = [PoolSettings(name, f"pools/{name}", license=f"licence of {name}") for name in pools]
    for pool in settings:
        record_pool(store, pool, root=root)
        clean_pool(store, pool, CleaningSettings(), root=root)
    unify_pools(store, settings)
    _, identity = register_encoder(store, encoder)
    embedded = embed_pools(store, identity, encoder.name, pools)
    encoded = {name: embed_queries(store, TaskSettings(name, f"tasks/{name}.jsonl"), identity, encoder.name, root=root)[1] for name in FLOW_TASKS}
    scored = score_tasks(store, FLOW_TASKS, pools, owned_ids(store, pools), ScoreSettings(depth))
    made = {name: make_mixture(store, MixtureSettings(name, **asked), pools, FLOW_TASKS) for name, asked in mixtures}
    exports = {name: export_mixture(store, name, formats, {pool.name: pool.license for pool in settings}) for name in made}
    return Flow(root, store, encoder, tuple(pools), FLOW_TASKS, embedded, encoded, scored, made, exports)


def write_flow_data(root: Path) -> None:
    """Three pools, 34 conversations kept of 37, and two tasks. chat also holds two of the sums (one with other white space) and a broken line."""
    sums = [{"id": f"s{n}", **_asked(f"What is {n} plus {7 * n + 3}?", f"{n} plus {7 * n + 3} is {8 * n + 3}.")} for n in range(16)]
    names = ["Ahlen", "Bad Ems", "Celle", "Dorum", "Erfurt", "Fulda", "Gotha", "Hagen", "Idar", "Jever"]
    towns = [
        {"source": ("atlas", "map")[n % 2], **_asked(f"Which town lies {n} miles from the sea?", f"{name} lies {n} miles away.")}
        for n, name in enumerate(names)
    ]
    chat = [_asked(f"Tell me {n} things about {thing}.", f"{thing} {does}.") for n, (thing, does) in enumerate(CHAT, 2)]
    call = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Celle"}'}}]
    with_tools = {
        "messages": [
            {"role": "system", "content": "You may ask for the weather."},
            {"role": "user", "content": "Is it warm in Celle?"},
            {"role": "assistant", "content": "", "tool_calls": call},
            {"role": "tool", "content": "21 degrees", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is warm: 21 degrees."},
        ]
    }
    spaced = _asked("What is 1  plus 10?", " 1 plus 10 is 11.\n")
    queries = {
        "adding": [_asked(f"What is {n} plus 1?", f"{n} plus 1 is {n + 1}.") for n in (21, 32, 43)],
        "places": [_asked(f"Which town lies {n} miles from here?", f"Lower {n} does.") for n in (5, 6)],
    }
    files = {
        "pools/sums/a.jsonl": sums[:10],
        "pools/sums/b.jsonl": sums[10:],
        "pools/towns/all.jsonl": towns,
        "pools/chat/new/c.jsonl": [*chat, sums[0], spaced, with_tools, {"messages": []}],
        **{f"tasks/{task}.jsonl": [{"id": f"{task}-{n}", **row} for n, row in enumerate(rows)] for task, rows in queries.items()},
    }
    for path, records in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("".join(json.dumps(record) + "\n" for record in records))


CHAT = [
    ("the sea", "is wide and many gulls fly over it"),
    ("a fox", "runs home at night"),
    ("old bread", "can be roasted in a pan"),
    ("music", "was sung before it was written"),
    ("snow", "falls in small stars"),
    ("a bridge", "carries what it must"),
    ("chess", "is played on sixty-four squares"),
]


@pytest.fixture(scope="session")
def run_flow() -> Callable[..., Flow]:
    """``drive_flow``: all stages without Dagster."""
    return drive_flow


@pytest.fixture(scope="session")
def flow_data() -> Callable[[Path], None]:
    """``write_flow_data``: small pools and tasks for ``run_flow``."""
    return write_flow_data


@pytest.fixture(scope="session")
def tiny_encoder() -> "EncoderSettings":
    """The package's own language model."""
    from rds_dagster.embeddings.settings import EncoderSettings

    return EncoderSettings(dtype="float32")


@pytest.fixture
def copy_of_tiny(tmp_path: Path) -> Path:
    """A copy of the package's own language model, to change at will."""
    from rds_dagster.embeddings.identity import TINY_FOLDER

    return shutil.copytree(TINY_FOLDER, tmp_path / "copy of tiny")


@pytest.fixture(scope="session")
def flow(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: "EncoderSettings") -> Flow:
    """The stages driven once over the small pools. Do not write to it: ``own_flow`` is a copy."""
    root = tmp_path_factory.mktemp("flow")
    write_flow_data(root)
    return drive_flow(root, root / "home", tiny_encoder)


@pytest.fixture
def own_flow(flow: Flow, tmp_path: Path) -> Flow:
    """A copy of the driven stages with their state, to change at will."""
    from rds_dagster.storage.layout import Layout
    from rds_dagster.storage.tables import TableStore

    root = tmp_path / "flow"
    shutil.copytree(flow.root, root, copy_function=shutil.copy2)
    return replace(flow, root=root, store=TableStore(Layout(root / "home")))
