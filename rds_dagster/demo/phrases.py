"""A tiny phrase grammar: ``[a|b|c]`` is one of three wordings (they nest), ``{slot}`` a value; and the names the demo data shares."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from rds_dagster.schema import Message

Conversation = list[Message]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")

NAMES = (
    "Ada", "Amir", "Anouk", "Ben", "Bianca", "Carlos", "Chidi", "Clara", "Dalia", "Dmitri", "Edda", "Elif", "Emre", "Farah", "Felix", "Freya", "Goran",
    "Greta", "Hana", "Hugo", "Ines", "Ivan", "Jamal", "Jonas", "Juno", "Kaito", "Kira", "Lars", "Leila", "Lucia", "Malik", "Mira", "Nadia", "Nils",
    "Odile", "Omar", "Paula", "Petra", "Quinn", "Rafael", "Rosa", "Samir", "Selma", "Tariq", "Thea", "Uma", "Viktor", "Wanda", "Xenia", "Yusuf", "Zara",
    "Zoltan",
)  # fmt: skip
PLACES = (
    "Alderby", "Brackwater", "Calder Hill", "Dunmarsh", "Eastholm", "Fernvale", "Grimsdale", "Harrowby", "Inverloch", "Jutland Cross", "Kestrel Bay",
    "Larkfield", "Millbrook", "Northmere", "Oakhaven", "Pinewick", "Quarry End", "Redcliff", "Saltmouth", "Thornbury Vale", "Upper Wend", "Vinterhaven",
    "Westerley", "Yarrow Point",
)  # fmt: skip


def say(rng: random.Random, template: str, slots: Mapping[str, str | int] | None = None) -> str:
    """The template with every ``[a|b]`` decided by ``rng``, innermost first, and then every ``{slot}`` filled; KeyError names a slot not given."""
    while match := _CHOICE.search(template):
        template = template[: match.start()] + rng.choice(match.group(1).split("|")) + template[match.end() :]
    return template.format_map(slots or {})


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def exchange(user: str, assistant: str) -> Conversation:
    """One question and its answer."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


class Distinct:
    """Takes conversations that are not near-duplicates of any taken before, so that the planted near-duplicates are the only ones.

    Two are too alike if the Jaccard index of their sets of 5-word shingles (lower-cased, roles ignored) reaches ``LIMIT``.
    """

    LIMIT = 0.5  # near-duplicate rules in use start at 0.7 to 0.8 (e.g. arXiv 2107.06499); the planted ones lie above 0.75
    TRIES = 400  # per conversation taken; the thinnest grammar needs fewer than 10 on average

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._holders: dict[tuple[str, ...], list[int]] = {}

    def take(self, make: Callable[[], Conversation]) -> Conversation:
        """The first conversation of ``make()`` that is unlike all taken so far."""
        for _ in range(self.TRIES):
            conversation = make()
            if self._offer(conversation):
                return conversation
        raise AssertionError(f"{make} made {self.TRIES} conversations in a row that are near-duplicates of earlier ones; its grammar is too thin")

    def _offer(self, conversation: Conversation) -> bool:
        own = shingles(conversation)
        shared: dict[int, int] = {}
        for shingle in own:
            for holder in self._holders.get(shingle, ()):
                shared[holder] = shared.get(holder, 0) + 1
        if any(count / (len(own) + self._sizes[holder] - count) >= self.LIMIT for holder, count in shared.items()):
            return False
        for shingle in own:
            self._holders.setdefault(shingle, []).append(len(self._sizes))
        self._sizes.append(len(own))
        return True


def shingles(conversation: Conversation, width: int = 5) -> set[tuple[str, ...]]:
    """The set of runs of ``width`` lower-cased words over all contents; one shorter run for a text of fewer words."""
    words = " ".join(message["content"] for message in conversation).lower().split()
    return {tuple(words[start : start + width]) for start in range(max(1, len(words) - width + 1))}
