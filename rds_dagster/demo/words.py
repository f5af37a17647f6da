"""The word lists of the demo data that lie beside the code, in ``words/*.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml


@dataclass(frozen=True)
class Topic:
    """What a dialogue is about: problems that open it, advice (at least five pieces), and follow-ups as (question, answer)."""

    problems: tuple[str, ...]
    advice: tuple[str, ...]
    follow_ups: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fact:
    """A sentence of a passage, the slot in it that answers, and questions after it."""

    sentence: str
    answer: str
    questions: str


@dataclass(frozen=True)
class Subject:
    """What a passage is about: an opening, values for its slots, and facts."""

    opening: str
    values: Mapping[str, str]
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class PhraseBook:
    """Phrases in English, German, French, Spanish; a deed's German has two parts (verb, rest), a link's phrase may be None."""

    subjects: tuple[tuple[str, ...], ...]
    deeds: tuple[tuple[str, ...], ...]
    when: tuple[tuple[str, ...], ...]
    links: tuple[tuple[str | None, ...], ...]


@cache
def chat_topics() -> tuple[Topic, ...]:
    """The topics of the chat pool."""
    return tuple(
        Topic(tuple(topic["problems"]), tuple(topic["advice"]), tuple((turn["question"], turn["answer"]) for turn in topic["follow_ups"]))
        for topic in yaml.safe_load(_text("chat.yaml"))
    )


@cache
def reading_subjects() -> tuple[Subject, ...]:
    """The subjects of the reading pool."""
    return tuple(
        Subject(subject["opening"], subject["values"], tuple(Fact(**fact) for fact in subject["facts"])) for subject in yaml.safe_load(_text("reading.yaml"))
    )


@cache
def phrase_book() -> PhraseBook:
    """The phrases of the translation pool."""
    said = yaml.safe_load(_text("translation.yaml"))
    return PhraseBook(**{part: tuple(tuple(phrase) for phrase in phrases) for part, phrases in said.items()})


def _text(name: str) -> str:
    return (resources.files("rds_dagster.demo") / "words" / name).read_text(encoding="utf-8")
