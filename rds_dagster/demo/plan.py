"""The demo's pools and tasks: what they are made of, in which form, and how much is planted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from rds_dagster.demo import formats
from rds_dagster.demo.arithmetic import arithmetic_conversation
from rds_dagster.demo.chat import chat_conversation
from rds_dagster.demo.formats import Container, Draft
from rds_dagster.demo.noise import noise_conversation
from rds_dagster.demo.phrases import exchange
from rds_dagster.demo.programs import program_conversation
from rds_dagster.demo.reading import reading_conversation
from rds_dagster.demo.translation import translation_conversation


@dataclass(frozen=True)
class PoolPlan:
    """One pool: its maker, form and files, fresh conversations, exact copies within it (the last two of them with other white space), near-duplicates,
    and the source named by records that came from elsewhere (copies from other pools, leaked test items).
    """

    pool: str
    make: Callable[[random.Random], Draft]
    shape: formats.Shape
    container: Container
    files: tuple[str, ...]
    fresh: int
    exact: int
    near: int
    foreign_source: str | None = None


@dataclass(frozen=True)
class TaskPlan:
    """One target task, made by the grammar of one pool: queries, test items, and the pools that test items leak into."""

    task: str
    pool: str
    queries: int
    test_items: int
    leaks: tuple[str, ...]


def _arithmetic(rng: random.Random) -> Draft:
    return Draft(arithmetic_conversation(rng))


def _programs(rng: random.Random) -> Draft:
    instruction, more, output = program_conversation(rng)
    return Draft(exchange(f"{instruction}\n\n{more}" if more else instruction, output))


def _reading(rng: random.Random) -> Draft:
    return Draft(reading_conversation(rng))


def _chat(rng: random.Random) -> Draft:
    return Draft(chat_conversation(rng))


def _translation(rng: random.Random) -> Draft:
    source, conversation = translation_conversation(rng)
    return Draft(conversation, source)


def _noise(rng: random.Random) -> Draft:
    source, conversation = noise_conversation(rng)
    return Draft(conversation, source)


POOLS: tuple[PoolPlan, ...] = (
    PoolPlan("arithmetic", _arithmetic, formats.messages_record, "jsonl", ("stories-1.jsonl", "stories-2.jsonl"), fresh=360, exact=10, near=6),
    PoolPlan("programs", _programs, formats.alpaca_record, "jsonl.gz", ("functions.jsonl.gz",), fresh=300, exact=8, near=6),
    PoolPlan("reading", _reading, formats.prompt_record, "parquet", ("passages.parquet",), fresh=280, exact=8, near=6),
    PoolPlan("chat", _chat, formats.sharegpt_record, "json_array", ("dialogues.json",), fresh=300, exact=6, near=6),
    PoolPlan("translation", _translation, formats.messages_record, "jsonl.zst", ("pairs.jsonl.zst",), fresh=300, exact=12, near=0),
    PoolPlan("noise", _noise, formats.prompt_record, "jsonl", ("crawl.jsonl",), fresh=320, exact=14, near=0, foreign_source="reposts"),
)
TASKS: tuple[TaskPlan, ...] = (
    TaskPlan("arithmetic_stories", "arithmetic", queries=8, test_items=40, leaks=("arithmetic", "arithmetic", "arithmetic", "chat")),
    TaskPlan("small_programs", "programs", queries=8, test_items=40, leaks=("programs", "programs", "programs", "arithmetic")),
    TaskPlan("reading_passages", "reading", queries=8, test_items=40, leaks=("reading", "reading", "noise")),
)
CROSS_COPIES: tuple[tuple[str, str, int], ...] = (
    ("arithmetic", "noise", 4),
    ("arithmetic", "programs", 3),
    ("programs", "chat", 4),
    ("reading", "noise", 3),
    ("reading", "arithmetic", 3),
    ("translation", "chat", 5),
    ("translation", "reading", 2),
)
"""Exact copies across pools: from, to, how many."""
