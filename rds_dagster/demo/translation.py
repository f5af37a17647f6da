"""Sentence pairs from English to German, French and Spanish, built from a phrase grammar: who, does what, when or where."""

from __future__ import annotations

import random
import re

from rds_dagster.demo.phrases import Conversation, exchange, say
from rds_dagster.demo.words import phrase_book

LANGUAGES = ("German", "French", "Spanish")
_CODES = {"German": "en-de", "French": "en-fr", "Spanish": "en-es"}

_ASKS = (
    "[Translate into {language}|Please translate to {language}|Render in {language}|{language} translation, please|Put this into {language}]: {text}",
    "{text}\n\n[How do you say that in {language}?|In {language}?|What is this in {language}?]",
    'How would [someone in {city}|a {language} speaker] say "{text}"?',
    "[English|EN]: {text}\n{language}:",
)
_CITIES = {"German": "Berlin", "French": "Lyon", "Spanish": "Seville"}


def translation_conversation(rng: random.Random) -> tuple[str, Conversation]:
    """One pair as (source, conversation); the source is the pair of languages, such as en-de."""
    language = rng.choice(LANGUAGES)
    english, other = _sentence(rng, LANGUAGES.index(language))
    prompt = say(rng, rng.choice(_ASKS), {"language": language, "text": english, "city": _CITIES[language]})
    return _CODES[language], exchange(prompt, other)


def _sentence(rng: random.Random, language: int) -> tuple[str, str]:
    """A sentence of one or two clauses in English and in LANGUAGES[language]."""
    book = phrase_book()
    subjects, deeds, whens = rng.sample(book.subjects, 2), rng.sample(book.deeds, 2), rng.sample(book.when, 2)
    (english, other), second = (_clause(*parts, language) for parts in zip(subjects, deeds, whens, strict=True))
    if rng.random() < 0.7:
        link = rng.choice([link for link in book.links if link[language + 1]])
        comma = "," if language == 0 and link[0] == "but" else ""
        english, other = f"{english} {link[0]} {second[0]}", f"{other}{comma} {link[language + 1]} {second[1]}"
    if language == 1:
        other = re.sub(r"\b(ne|que) (?=[aeiouéê])", lambda word: word.group(1)[:-1] + "'", other)  # personne n'ouvre, parce qu'un
    return _finish(english), _finish(other)


def _clause(subject: tuple[str, ...], deed: tuple[str, ...], when: tuple[str, ...], language: int) -> tuple[str, str]:
    english = f"{subject[0]} {deed[0]} {when[0]}"
    if language == 0:
        return english, f"{subject[1]} {deed[1]} {when[1]} {deed[2]}"  # the verb stands second, the time before the object
    return english, f"{subject[language + 1]} {deed[language + 2]} {when[language + 1]}"


def _finish(text: str) -> str:
    return text[0].upper() + text[1:] + "."
