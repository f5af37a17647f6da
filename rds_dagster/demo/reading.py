"""Passages about made-up things, each with a question whose answer stands in the passage word for word."""

from __future__ import annotations

import random
from dataclasses import dataclass

from rds_dagster.demo.phrases import NAMES, PLACES, Conversation, exchange, say
from rds_dagster.demo.words import Subject, reading_subjects


@dataclass(frozen=True)
class Reading:
    """A passage, a question on it, and the answer, which the passage contains."""

    passage: str
    question: str
    answer: str


def reading_conversation(rng: random.Random) -> Conversation:
    """The passage and the question as a user turn, the answer as the assistant's, sometimes within a sentence."""
    item = make_reading(rng)
    layout = say(
        rng,
        "[[Read the passage and answer the question.\n\n|][Passage: |Text: |]{passage}\n\n[Question: |Q: |]{question}|"
        "{passage}\n\n[Based on the text above|According to this text|From the passage], [answer this|reply briefly]: {question}|"
        "[Answer from the text below|Find the answer in the text]: {question}\n\n{passage}]",
        {"passage": item.passage, "question": item.question},
    )
    return exchange(layout, say(rng, "[{x}|{x}.|[The answer is|It is|According to the passage:] {x}.]", {"x": item.answer}))


def make_reading(rng: random.Random) -> Reading:
    """A passage of four to six facts about one subject, in shuffled order, and a question about one of them."""
    subject = rng.choice(reading_subjects())
    slots = {name: say(rng, values) for name, values in subject.values.items()}
    person, other = rng.sample(NAMES, 2)
    place, near = rng.sample(PLACES, 2)
    surname, builder = rng.sample(
        (
            "Abara",
            "Brandt",
            "Castell",
            "Dorn",
            "Eklund",
            "Ferro",
            "Gruber",
            "Hale",
            "Iversen",
            "Kowal",
            "Lindqvist",
            "Moreau",
            "Novak",
            "Okoye",
            "Pereira",
            "Rask",
        ),
        2,
    )
    slots |= {
        "person": f"{person} {surname}",
        "other": f"{other} {builder}",
        "place": place,
        "near": near,
        "year": str(rng.randrange(1780, 1990)),
        "late": str(rng.randrange(1991, 2024)),
    }
    slots |= {"n": str(rng.randrange(12, 98)), "m": str(rng.randrange(110, 990)), "k": str(rng.randrange(3, 11))}
    return _told(rng, subject, slots)


def _told(rng: random.Random, subject: Subject, slots: dict[str, str]) -> Reading:
    facts = rng.sample(subject.facts, rng.randrange(4, min(6, len(subject.facts)) + 1))
    asked = rng.choice([fact for fact in facts if fact.questions])
    sentences = [say(rng, subject.opening, slots), *(say(rng, fact.sentence, slots) for fact in facts)]
    return Reading(" ".join(sentences), say(rng, asked.questions, slots), slots[asked.answer])
