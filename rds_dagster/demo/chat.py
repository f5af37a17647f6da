"""Small talk and advice: dialogues of two to eight turns, some opened by a system turn."""

from __future__ import annotations

import random

from rds_dagster.demo.phrases import NAMES, Conversation, exchange, say, sentence_case
from rds_dagster.demo.words import Topic, chat_topics
from rds_dagster.schema import Message

_SYSTEM = (
    "You are a [kind|patient|cheerful|matter-of-fact] [assistant|helper|companion]. [Keep it short.|Give "
    "practical advice.|Ask back when something is unclear.|Answer in plain words.]",
    "[You talk like an old friend.|Be honest, but gentle.|You are the voice of a help line for everyday "
    "questions.] [Never lecture.|Two or three sentences are enough.|Suggest one thing at a time.]",
)


def chat_conversation(rng: random.Random) -> Conversation:
    """One dialogue about one topic: a problem, advice, and up to three follow-ups; a third begin with a system turn."""
    topic = rng.choice(chat_topics())
    slots = {
        "friend": rng.choice(NAMES),
        "days": str(rng.randrange(2, 15)),
        "since": say(rng, "[last week|yesterday|last month|last weekend|last spring|last Friday|last winter]"),
    }
    opening: list[Message] = [{"role": "system", "content": say(rng, rng.choice(_SYSTEM))}] if rng.random() < 0.33 else []
    advice = rng.sample(topic.advice, len(topic.advice))
    turns = exchange(_problem(rng, topic, slots), _advise(rng, advice[:2], slots))
    for number, (question, answer) in enumerate(rng.sample(topic.follow_ups, rng.randrange(0, len(topic.follow_ups) + 1))):
        reaction = say(rng, "[Thanks!|That helps.|Hm, okay.|I see.|Good point.|Ha, true.|Right.|] ").lstrip()
        turns += exchange(
            reaction + say(rng, question, slots), say(rng, answer, slots) + (" " + say(rng, advice[2 + number], slots) if rng.random() < 0.6 else "")
        )
    if rng.random() < 0.3:
        turns += exchange(
            say(rng, "[Great, I will try that|Thank you so much|You are a star|That sounds doable|I feel better already][!|.| :)]"),
            say(
                rng, "[You are welcome|Glad to hear it|Any time|My pleasure][!|.] [Let me know how it goes.|Good luck!|Take care.|Enjoy the rest of your day.|]"
            ).strip(),
        )
    return opening + turns


def _problem(rng: random.Random, topic: Topic, slots: dict[str, str]) -> str:
    hello = say(rng, "[Hi there!|Hello,|Hey,|Good evening.|Quick question:|Can I ask you something?|So,|I need a second opinion.|||] ").lstrip()
    problem = say(rng, rng.choice(topic.problems), slots)
    ask = say(rng, "[What would you do?|Any ideas?|What do you suggest?|Am I overthinking this?|How should I go about it?|Please help.|Is there a trick?]")
    return hello + (problem if hello.endswith((", ", ": ")) else sentence_case(problem)) + " " + ask


def _advise(rng: random.Random, advice: list[str], slots: dict[str, str]) -> str:
    opener = say(rng, "[That is a common one.|I understand.|Oh, I know that feeling.|Sure!|Happy to help.|No need to worry.|Good question.|] ").lstrip()
    joined = say(rng, "[ | Also: | And | Besides, ]")
    first, second = (say(rng, text, slots) for text in advice)
    if joined in (" And ", " Besides, "):
        second = second[0].lower() + second[1:]
    return opener + first + joined + second + say(rng, "[| Does that sound right?| Start small.| What have you tried so far?| You will manage.]")
