"""Does an encoder select? The share of a task's own kind among its RDS+ top 1,000, and whether the vectors collapse.

    python benchmarks/own_kind.py --data DIR [--cache DIR] [--encoders tiny minilm FOLDER ...] [--markdown FILE]

``--data`` is a folder with ``pool/<source>.jsonl.zst`` and ``tasks/<task>.jsonl.zst``. The pool has equal parts of twelve sources: records with an empty
turn and exact duplicates leave first, then each source gives the examples with the smallest seeded fraction of their id. Every task takes what a
mixture for that task alone takes: round robin over its queries. Vectors are float16 (queries float32), as the project stores them.

Beside RDS+ (weighted mean) stand mean and last-token pooling, each also whitened to a quarter, a half and all of its numbers; the whitening is fitted
on the pool. Random is exact: the kind's share of the pool. The most possible is less than 100% where the pool holds fewer of the kind than are taken.
Nothing passes or fails here: the figures are printed, bad ones too.

What is a task's own kind is our definition; KINDS says which and why, and a table counts each kind by source. N examples, M queries, D hidden size.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rds_dagster.embeddings.encoder import describe_encoder, load_encoder
from rds_dagster.embeddings.identity import EncoderIdentity
from rds_dagster.embeddings.settings import EncoderSettings, Pooling
from rds_dagster.embeddings.whitening import fit_whitening
from rds_dagster.errors import InputError, SettingsError
from rds_dagster.fingerprint import ID_DTYPE, content_digest, fingerprint, seeded_fractions
from rds_dagster.mixtures.selectors import round_robin_queries
from rds_dagster.pools.files import list_files
from rds_dagster.pools.readers import read_records
from rds_dagster.pools.shapes import Rejected, to_messages
from rds_dagster.queries.read import read_queries
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.schema import Message, duplicate_key, example_id
from rds_dagster.scores.similarity import score_block
from rds_dagster.storage.atomic import atomic_path, write_text

SOURCES = (
    "alpaca", "alpaca_zh", "anthropic_evals", "dolly", "ei_code_example", "flan_cot",
    "gpteacher_codegen", "gpteacher_roleplay", "gpteacher_toolformer", "ni_v1", "sapt_long", "t0_50k",
)  # fmt: skip
"""All but code_alpaca_new and ei_alpaca_5k, which are copies. Of duplicates in several sources the first of these keeps its own."""

QUERIES = {"gsm8k": "gsm8k.paper8", "codex": "codex", "squad": "squad", "tydiqa": "tydiqa", "bbh": "bbh", "mmlu": "mmlu"}
"""Task -> file of its queries; for gsm8k the paper's eight exemplars."""

SEED = 0
TOP = 1_000
PER_SOURCE = 1_900
COLLAPSE_EXAMPLES = 5_000
WHITENED_PARTS = (4, 2, 1)  # D divided by these
MINILM_TOKENS = 256  # what its authors advise; its limit is 512
POOLINGS: tuple[Pooling, ...] = ("weighted_mean", "mean", "last_token")

# Lines that so many prompts of a source share are its makers' instructions: ni_v1's definitions mostly stand in 500 to 6,500 prompts, gpteacher_toolformer's
# in up to 1,312. Passages are shared too: t0_50k asks up to 344 times about one.
INSTRUCTION_PROMPTS = 500
PASSAGE_BYTES = 300  # of UTF-8: about 50 English words or 100 Chinese characters
LONG_BYTES = 600  # 31 of the 7,473 GSM8K stories, which are no passages, are as long
PASSAGE_SENTENCES = 3
SENTENCE_END = re.compile(r"[.!?…]['\")\]]*(?=\s|$|<br|\\n)|[\u3002\uff01\uff1f]")  # reviews hold <br /> and \n for line breaks; the last three are Chinese
OPTION = re.compile(r"\(?[A-Za-z]\)\s|-\s|(?:options|choices)\s*:?\s*$", re.IGNORECASE)
LETTERED = re.compile(r"(?:^|\s)\(A\).*?\s\(B\).*?\s\(C\)|^A[.):].*?^B[.):].*?^C[.):]", re.DOTALL | re.MULTILINE)
NUMERIC_ANSWER = re.compile(r"The answer is [-(]*\$?[\d,]*\.?\d+\)?%?\.?\s*$")


@dataclass(frozen=True)
class Item:
    """What the rules look at: the source, the first turn, the last turn, and the instructions that the source's prompts share (their digests)."""

    source: str
    prompt: str
    answer: str
    instructions: frozenset[bytes] = frozenset()


def is_gsm8k(item: Item) -> bool:
    """flan_cot's copy of GSM8K: the answer ends in a number, and the prompt lists no options to choose it from. On all of flan_cot: its 7,473 items."""
    return item.source == "flan_cot" and NUMERIC_ANSWER.search(item.answer) is not None and "\nOptions:\n" not in item.prompt


def is_code(item: Item) -> bool:
    """The two sources of programming tasks."""
    return item.source in ("ei_code_example", "gpteacher_codegen")


def has_passage(item: Item) -> bool:
    """A text of three sentences or more in the prompt that is neither an instruction which many prompts share nor an answer option.

    Either one line of 300 bytes beside another line (what to do with it), or 600 bytes in all: templates that put everything on one line,
    articles with a line for each sentence. News, reviews and stories count, whatever is asked about them; code does not come up.
    """
    lines = [line for line in (line.strip() for line in item.prompt.splitlines()) if line and not OPTION.match(line)]
    own = [line for line in lines if content_digest(line.encode()) not in item.instructions]
    if len(lines) > 1 and any(_is_text(line, PASSAGE_BYTES) for line in own):
        return True
    return _is_text("\n".join(own), LONG_BYTES)


def is_chain_of_thought(item: Item) -> bool:
    """flan_cot, GSM8K included: every answer of BBH's queries is a chain of thought, and some of its subtasks count and calculate."""
    return item.source == "flan_cot"


def has_lettered_options(item: Item) -> bool:
    """Three options A, B, C or more in the prompt, "(A)" anywhere or "A." at the beginning of a line."""
    return LETTERED.search(item.prompt) is not None


KINDS: Mapping[str, Callable[[Item], bool]] = {
    "GSM8K": is_gsm8k,
    "code": is_code,
    "passage": has_passage,
    "chain of thought": is_chain_of_thought,
    "lettered options": has_lettered_options,
}
OWN_KIND = {"gsm8k": "GSM8K", "codex": "code", "squad": "passage", "tydiqa": "passage", "bbh": "chain of thought", "mmlu": "lettered options"}


def shared_instructions(prompts: Sequence[str]) -> frozenset[bytes]:
    """Digests of the lines that stand in INSTRUCTION_PROMPTS or more of the prompts."""
    counts = Counter(line for prompt in prompts for line in {line.strip() for line in prompt.splitlines()})
    return frozenset(content_digest(line.encode()) for line, count in counts.items() if count >= INSTRUCTION_PROMPTS)


def _is_text(text: str, num_bytes: int) -> bool:
    return len(text.encode()) >= num_bytes and len(SENTENCE_END.findall(text)) >= PASSAGE_SENTENCES


@dataclass(frozen=True, eq=False)
class Pool:
    """N examples in id order: ids (N,) S16, their conversations, and for each kind which of them are of it, (N,) bool.

    ``counts``: source -> kind -> how many of all its unique examples are of the kind, with the number of all under "".
    """

    ids: np.ndarray
    conversations: list[list[Message]]
    kinds: dict[str, np.ndarray]
    counts: dict[str, Counter[str]]


def read_pool(data: Path, per_source: int) -> Pool:
    """The pool of equal parts; raises InputError where a source holds too few."""
    seen: set[bytes] = set()
    counts: dict[str, Counter[str]] = {}
    chosen: list[tuple[bytes, list[Message], dict[str, bool]]] = []
    for source in SOURCES:
        unique = list(_unique(data, source, seen))
        if len(unique) < per_source:
            raise InputError(f"{source} has {len(unique):,} unique examples; --per-source is {per_source:,}. Set it to {len(unique)} or fewer")
        ids = np.array([example_id(messages) for messages in unique], ID_DTYPE)
        kinds = _kinds(source, unique)
        counts[source] = Counter({"": len(unique), **{kind: sum(found[kind] for found in kinds) for kind in KINDS}})
        rows = np.argsort(seeded_fractions(ids, SEED, "pool of the own-kind benchmark"), kind="stable")[:per_source]
        chosen += [(ids[row], unique[row], kinds[row]) for row in rows]
    chosen.sort(key=lambda example: example[0])
    return Pool(
        np.array([example for example, _, _ in chosen], ID_DTYPE),
        [messages for _, messages, _ in chosen],
        {kind: np.array([found[kind] for _, _, found in chosen]) for kind in KINDS},
        counts,
    )


def _kinds(source: str, conversations: Sequence[list[Message]]) -> list[dict[str, bool]]:
    instructions = shared_instructions([messages[0]["content"] for messages in conversations])
    items = (Item(source, messages[0]["content"], messages[-1]["content"], instructions) for messages in conversations)
    return [{kind: rule(item) for kind, rule in KINDS.items()} for item in items]


def _unique(data: Path, source: str, seen: set[bytes]) -> Iterator[list[Message]]:
    """A source's conversations whose turns all hold something and whose like is not in ``seen``, which grows."""
    dropped: Counter[str] = Counter()
    for file in list_files(f"pool/{source}.jsonl.zst", root=data):
        for record in read_records(file):
            if record.value is None:
                dropped[str(record.reason)] += 1
                continue
            found = to_messages(record.value, "messages")
            if isinstance(found, Rejected):
                dropped[found.reason] += 1
            elif not all(message["content"].strip() for message in found.messages):
                dropped["empty turn"] += 1
            elif (key := duplicate_key(found.messages)) in seen:
                dropped["duplicate"] += 1
            else:
                seen.add(key)
                yield found.messages
    print(f"{source}: dropped {dict(dropped) or 'nothing'}", file=sys.stderr)


def encode(identity: EncoderIdentity, conversations: Sequence[list[Message]], cache: Path | None) -> np.ndarray:
    """Vectors (N, D) float32 in the conversations' order; from the cache if the same encoder made them of the same conversations before."""
    made_of = fingerprint([example_id(messages) for messages in conversations])
    path = cache / f"{identity.fingerprint}-{made_of}.npy" if cache else None
    if path and path.exists():
        kept: np.ndarray = np.load(path, allow_pickle=False)
        return kept
    encoder, began = load_encoder(identity), time.monotonic()
    vectors = encoder.encode_conversations(conversations)
    took = f"{len(vectors):,} examples in {time.monotonic() - began:.0f} s"
    print(f"{identity.settings.model} {identity.pooling}: {took}, {encoder.made_on}", file=sys.stderr)
    if path:
        with atomic_path(path) as partial, partial.open("wb") as stream:
            np.save(stream, vectors)
    return vectors


def top_share(vectors: np.ndarray, queries: np.ndarray, is_kind: np.ndarray, top: int) -> float:
    """Share of a kind, is_kind (N,) bool, among the ``top`` examples that round robin over queries (M, D) takes of vectors (N, D)."""
    budget = min(top, len(vectors))  # lists as deep as the budget never end too early
    lists = score_block(vectors, queries, budget).top
    picks = round_robin_queries(lists.rows, lists.scores, budget, complete=budget == len(vectors))
    return float(is_kind[picks.rows].mean())


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine over all pairs of two different rows; vectors (n, D), n at least 2."""
    rows = _unit(vectors)
    total = float(np.square(rows.sum(axis=0)).sum())
    return (total - len(rows)) / (len(rows) * (len(rows) - 1))


def effective_rank(vectors: np.ndarray) -> float:
    """From 1 to min(n, D): exp of the entropy of the normalised singular values (Roy and Vetterli 2007) of the rows at norm 1, not centred."""
    values = np.linalg.svd(_unit(vectors), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _unit(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    unit: np.ndarray = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def encoders(words: Sequence[str]) -> Iterator[tuple[str, EncoderIdentity]]:
    """(Name in the table, encoder): MiniLM in one pooling, others in all."""
    for word in words:
        name = Path(word).name
        if word == "minilm":
            yield name, describe_encoder(EncoderSettings(model=word, max_tokens=MINILM_TOKENS))
        else:
            yield from ((name, describe_encoder(EncoderSettings(model=word, pooling=pooling))) for pooling in POOLINGS)


def measure(identity: EncoderIdentity, pool: Pool, tasks: Mapping[str, list[list[Message]]], *, top: int, cache: Path | None) -> Iterator[list[str]]:
    """Rows of the table from the column "vectors" on: raw, then whitened."""
    raw = encode(identity, pool.conversations, cache).astype(np.float16)
    queries = {task: encode(identity, conversations, cache) for task, conversations in tasks.items()}
    yield ["raw", *_figures(raw, queries, pool, top)]
    for part in WHITENED_PARTS:
        try:
            whitening = fit_whitening(raw, max(1, identity.dims // part))
        except SettingsError as error:
            print(f"{identity.settings.model} {identity.pooling}: {error}", file=sys.stderr)
            yield [f"whitened to {identity.dims // part}", *["cannot be fitted"] * (len(tasks) + 2)]
            continue
        whitened = {task: whitening.apply(vectors) for task, vectors in queries.items()}
        yield [f"whitened to {whitening.dims}", *_figures(whitening.apply(raw), whitened, pool, top)]


def _figures(vectors: np.ndarray, queries: Mapping[str, np.ndarray], pool: Pool, top: int) -> list[str]:
    shares = [_share(top_share(vectors, asked, pool.kinds[OWN_KIND[task]], top), pool, task) for task, asked in queries.items()]
    rows = np.sort(np.argsort(seeded_fractions(pool.ids, SEED, "pairs of the own-kind benchmark"), kind="stable")[:COLLAPSE_EXAMPLES])
    return [*shares, f"{mean_cosine(vectors[rows]):.3f}", f"{effective_rank(vectors[rows]):.1f} of {vectors.shape[1]}"]


def _share(share: float, pool: Pool, task: str) -> str:
    random = float(pool.kinds[OWN_KIND[task]].mean())
    return f"{share:.1%}, {share / random:.1f} x" if random else f"{share:.1%}"


def kinds_table(pool: Pool, per_source: int) -> str:
    """Each kind by source, over all of its unique examples, and in the pool."""
    rows = [[source, f"{count['']:,}", *(f"{count[kind]:,}" for kind in KINDS)] for source, count in pool.counts.items()]
    rows.append([f"**the pool**, {per_source:,} of each", f"{len(pool.ids):,}", *(f"{is_kind.sum():,}" for is_kind in pool.kinds.values())])
    return markdown(["source", "unique examples", *KINDS], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/ and tasks/")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors from one run to the next")
    parser.add_argument("--encoders", nargs="+", default=["tiny", "minilm"], help="tiny, minilm, or folders of models")
    parser.add_argument("--per-source", type=int, default=PER_SOURCE, help="examples of each source in the pool")
    parser.add_argument("--top", type=int, default=TOP, help="examples that each task takes")
    parser.add_argument("--markdown", type=Path, help="file that gets the tables too")
    said = parser.parse_args()
    identities = list(encoders(said.encoders))  # a wrong word fails before any data is read
    tasks = {task: [item.messages for item in read_queries(TaskSettings(task, f"tasks/{file}.jsonl.zst"), root=said.data)] for task, file in QUERIES.items()}
    pool = read_pool(said.data, said.per_source)
    budget = min(said.top, len(pool.ids))
    counts = {task: int(pool.kinds[OWN_KIND[task]].sum()) for task in tasks}
    rows = [
        ["random", "", "", *(_share(count / len(pool.ids), pool, task) for task, count in counts.items()), "", ""],
        ["the most possible", "", "", *(_share(min(count / budget, 1), pool, task) for task, count in counts.items()), "", ""],
    ]
    for name, identity in identities:
        rows += [[name, identity.pooling, *figures] for figures in measure(identity, pool, tasks, top=said.top, cache=said.cache)]
    head = ["encoder", "pooling", "vectors", *(f"{task}: {OWN_KIND[task]}" for task in tasks), "mean cosine", "effective rank"]
    text = f"{kinds_table(pool, said.per_source)}\n{markdown(head, rows)}"
    print(text, end="")
    if said.markdown:
        write_text(said.markdown, text)


if __name__ == "__main__":
    main()
