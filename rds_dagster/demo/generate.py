"""The built-in demo data: six pools of different kinds and forms, three tasks, and a ledger of what was planted in them.

Deterministic: everything follows from the seed, no clock and no global state, so each call writes the same bytes. All text comes
from the grammars of this package.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rds_dagster.demo.broken import ROWS_PER_POOL, broken_rows
from rds_dagster.demo.formats import Draft, Row, encode
from rds_dagster.demo.ledger import (
    LEDGER_FILE,
    CopyKind,
    DemoLedger,
    GrowthLedger,
    Place,
    PlantedBroken,
    PlantedCopy,
    PlantedLeak,
    PoolWritten,
    TaskWritten,
    read_ledger,
)
from rds_dagster.demo.phrases import Conversation, Distinct
from rds_dagster.demo.plan import CROSS_COPIES, POOLS, TASKS, PoolPlan, TaskPlan
from rds_dagster.errors import SettingsError
from rds_dagster.schema import Message
from rds_dagster.storage.atomic import write_bytes

GROWING_POOL = "arithmetic"
GROWTH_NEW, GROWTH_KNOWN = 30, 10


def write_demo(folder: Path, *, seed: int = 0) -> DemoLedger:
    """Write ``folder/pools/<pool>/...``, ``folder/tasks/<task>.jsonl``, ``<task>.test.jsonl`` and ``folder/planted.json``; returns the latter.

    Each file appears whole or not at all, and one that stands there with the same bytes is not touched. Files of ``write_growth`` stay.
    """
    made = _make(seed)
    places: dict[Draft, Place] = {}
    for plan in POOLS:
        for file, drafts in _files(made, plan, seed).items():
            places |= {draft: Place(plan.pool, file, line) for line, draft in enumerate(drafts, 1)}
            _write(folder / "pools" / plan.pool / file, encode(plan.container, _rows(plan, file, drafts)))
    for task, (queries, test_items) in made.tasks.items():
        _write(folder / "tasks" / f"{task}.jsonl", _task_file(queries))
        _write(folder / "tasks" / f"{task}.test.jsonl", _task_file(test_items))
    ledger = _ledger(made, places, seed)
    _write(folder / LEDGER_FILE, ledger.as_json().encode())
    return ledger


def refuse_other_project(folder: Path) -> None:
    """Raise SettingsError if a project folder does not hold the demo's pools."""
    missing = [plan.pool for plan in POOLS if not (folder / "assets" / "pools" / plan.pool).is_dir()]
    if missing:
        raise SettingsError(
            f"{folder} is not the demo's project: assets/pools has no {', '.join(missing)}. Make one with `rds init DIR --demo`, or run your own with `rds run`"
        )


def write_growth(folder: Path, *, seed: int = 1) -> GrowthLedger:
    """Add one file to pool ``arithmetic`` of a folder that ``write_demo`` wrote: 30 new conversations and 10 that stand there already.

    The file is ``stories-growth-<seed>.jsonl``, and what was written is also recorded in ``folder/planted-growth-<seed>.json``. The same
    demo data and seed give the same bytes; another seed is another wave. Raises InputError if the folder has no demo data.
    """
    planted = read_ledger(folder)
    rng = random.Random(f"growth {planted.seed} {seed}")
    plan = _plan(GROWING_POOL)
    made = _make(planted.seed)
    places = {draft: Place(plan.pool, file, line) for file, drafts in _files(made, plan, planted.seed).items() for line, draft in enumerate(drafts, 1)}
    known = {Draft(draft.conversation): places[draft] for draft in rng.sample(made.originals[plan.pool], GROWTH_KNOWN)}
    new = [_fresh(rng, plan, made.distinct) for _ in range(GROWTH_NEW)]
    drafts = [*known, *new]
    rng.shuffle(drafts)
    file = f"stories-growth-{seed}.jsonl"
    copies = tuple(PlantedCopy(Place(plan.pool, file, line), known[draft], "verbatim") for line, draft in enumerate(drafts, 1) if draft in known)
    ledger = GrowthLedger(seed, plan.pool, file, len(drafts), copies)
    _write(folder / "pools" / plan.pool / file, encode(plan.container, _rows(plan, file, drafts)))
    _write(folder / f"planted-growth-{seed}.json", (json.dumps(asdict(ledger), indent=1) + "\n").encode())
    return ledger


@dataclass(frozen=True)
class _Made:
    """All records before they have places; ``originals`` are the fresh ones of a pool that nothing was copied from yet."""

    distinct: Distinct
    drafts: dict[str, list[Draft]]
    fresh: Counter[str]
    originals: dict[str, list[Draft]]
    tasks: dict[str, tuple[list[dict[str, object]], list[dict[str, object]]]]
    exact: list[tuple[Draft, Draft, CopyKind]]
    near: list[tuple[Draft, Draft, CopyKind]]
    leaked: list[tuple[Draft, str, str, bool]]


def _make(seed: int) -> _Made:
    made = _Made(Distinct(), {}, Counter(), {}, {}, [], [], [])
    for plan in POOLS:
        rng = random.Random(f"pool {plan.pool} {seed}")
        fresh = [_fresh(rng, plan, made.distinct) for _ in range(plan.fresh)]
        spoiled = [_single_exchange(rng, plan, made.distinct) for _ in range(ROWS_PER_POOL)]
        made.drafts[plan.pool] = fresh + [Draft(broken=row) for row in broken_rows(plan.pool, spoiled)]
        made.fresh[plan.pool] = len(fresh)
        made.originals[plan.pool] = rng.sample(fresh, len(fresh))
    for task in TASKS:
        _make_task(made, task, random.Random(f"task {task.task} {seed}"))
    _plant_copies(made, random.Random(f"copies {seed}"))
    return made


def _plan(pool: str) -> PoolPlan:
    return next(plan for plan in POOLS if plan.pool == pool)


def _fresh(rng: random.Random, plan: PoolPlan, distinct: Distinct) -> Draft:
    """A draft of the pool's kind that is no near-duplicate of any conversation made so far."""
    made: list[Draft] = []

    def offer() -> Conversation:
        made.append(plan.make(rng))
        conversation = made[-1].conversation
        assert conversation is not None, "a maker makes valid conversations"
        return conversation

    distinct.take(offer)
    return made[-1]


def _single_exchange(rng: random.Random, plan: PoolPlan, distinct: Distinct) -> Conversation:
    conversation = _fresh(rng, plan, distinct).conversation
    assert conversation is not None
    first = next(number for number, message in enumerate(conversation) if message["role"] == "user")
    return conversation[first : first + 2]


def _make_task(made: _Made, task: TaskPlan, rng: random.Random) -> None:
    plan = _plan(task.pool)
    parts: list[list[dict[str, object]]] = []
    for kind, count in (("query", task.queries), ("test", task.test_items)):
        conversations = [_fresh(rng, plan, made.distinct).conversation for _ in range(count)]
        parts.append([{"id": f"{task.task}/{kind}-{number:02}", "messages": conversation} for number, conversation in enumerate(conversations, 1)])
    made.tasks[task.task] = (parts[0], parts[1])
    for number, (pool, item) in enumerate(zip(task.leaks, rng.sample(parts[1], len(task.leaks)), strict=True)):
        is_recased = number == 1
        conversation: Conversation = item["messages"]  # type: ignore[assignment]
        draft = Draft(_each_content(conversation, str.upper) if is_recased else conversation, _plan(pool).foreign_source)
        made.drafts[pool].append(draft)
        made.leaked.append((draft, task.task, str(item["id"]), is_recased))


def _plant_copies(made: _Made, rng: random.Random) -> None:
    for plan in POOLS:
        for number in range(plan.exact):
            _copy_exactly(made, rng, plan.pool, plan.pool, is_respaced=number >= plan.exact - 2)
        for number in range(plan.near):
            _copy_nearly(made, rng, plan.pool, ("word_changed", "casing", "punctuation")[number % 3])
    for origin, target, count in CROSS_COPIES:
        for number in range(count):
            _copy_exactly(made, rng, origin, target, is_respaced=number == count - 1)


def _copy_exactly(made: _Made, rng: random.Random, origin: str, target: str, *, is_respaced: bool) -> None:
    original = made.originals[origin].pop()
    assert original.conversation is not None
    conversation = _each_content(original.conversation, lambda text: _respaced(rng, text)) if is_respaced else original.conversation
    copy = Draft(conversation, original.source if origin == target else _plan(target).foreign_source)
    made.drafts[target].append(copy)
    made.exact.append((copy, original, "white_space" if is_respaced else "verbatim"))


def _copy_nearly(made: _Made, rng: random.Random, pool: str, kind: CopyKind) -> None:
    originals = made.originals[pool]
    longest = max(originals[-40:], key=lambda draft: sum(len(message["content"].split()) for message in draft.conversation or ()))
    originals.remove(longest)
    assert longest.conversation is not None
    if kind == "word_changed":
        conversation = _each_content(longest.conversation[:1], lambda text: _word_changed(rng, text)) + longest.conversation[1:]
    elif kind == "casing":
        conversation = _each_content(longest.conversation, str.lower)
    else:
        conversation = longest.conversation[:-1] + _each_content(longest.conversation[-1:], lambda text: text.rstrip(".!?") + "!!")
    copy = replace(longest, conversation=conversation)
    made.drafts[pool].append(copy)
    made.near.append((copy, longest, kind))


def _each_content(conversation: Conversation, change: Callable[[str], str]) -> Conversation:
    changed: list[Message] = [{**message, "content": change(message["content"])} for message in conversation]
    return changed


def _respaced(rng: random.Random, text: str) -> str:
    """The text with some of its blanks and line ends doubled or turned into other white space, and a blank at an end; never a blank line in it."""
    words = text.split(" ")
    gaps = [rng.choice((" ", "  ", " \t")) if rng.random() < 0.2 else " " for _ in words[1:]]
    return rng.choice((" ", "\t", "\n ")) + words[0] + "".join(gap + word for gap, word in zip(gaps, words[1:], strict=True)) + rng.choice(("  ", "\n", ""))


def _word_changed(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    at = rng.choice([number for number, word in enumerate(words) if word.isalpha()])
    words[at] = rng.choice([other for other in ("perhaps", "really", "indeed", "simply") if other != words[at]])
    return " ".join(words)


def _files(made: _Made, plan: PoolPlan, seed: int) -> dict[str, list[Draft]]:
    """The pool's records, shuffled and dealt out to its files."""
    drafts = list(made.drafts[plan.pool])
    random.Random(f"order {plan.pool} {seed}").shuffle(drafts)
    return {file: drafts[number :: len(plan.files)] for number, file in enumerate(plan.files)}


def _rows(plan: PoolPlan, file: str, drafts: list[Draft]) -> list[Row]:
    stem = file.split(".", maxsplit=1)[0]
    return [draft.broken[1] if draft.broken else plan.shape(f"{stem}-{line:04}", draft) for line, draft in enumerate(drafts, 1)]


def _task_file(records: list[dict[str, object]]) -> bytes:
    return encode("jsonl", [dict(record) for record in records])


def _ledger(made: _Made, places: dict[Draft, Place], seed: int) -> DemoLedger:
    broken = {draft: draft.broken[0] for drafts in made.drafts.values() for draft in drafts if draft.broken}
    num_broken = Counter(places[draft].pool for draft in broken)
    return DemoLedger(
        seed=seed,
        pools=tuple(PoolWritten(plan.pool, plan.files, len(made.drafts[plan.pool]), num_broken[plan.pool], made.fresh[plan.pool]) for plan in POOLS),
        tasks=tuple(TaskWritten(task, len(queries), len(test_items)) for task, (queries, test_items) in made.tasks.items()),
        broken=tuple(sorted((PlantedBroken(places[draft], reason) for draft, reason in broken.items()), key=lambda row: row.place)),
        exact_duplicates=_copies(made.exact, places),
        near_duplicates=_copies(made.near, places),
        leaked=tuple(
            sorted(
                (PlantedLeak(places[draft], task, item, "casing" if is_recased else "verbatim") for draft, task, item, is_recased in made.leaked),
                key=lambda row: row.place,
            )
        ),
    )


def _copies(planted: list[tuple[Draft, Draft, CopyKind]], places: dict[Draft, Place]) -> tuple[PlantedCopy, ...]:
    return tuple(sorted((PlantedCopy(places[copy], places[original], kind) for copy, original, kind in planted), key=lambda row: row.place))


def _write(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)
