"""The broken rows planted in each pool: (expected reason, row). Made from sound conversations, as they break in the field."""

from __future__ import annotations

import json

from rds_dagster.demo.formats import Draft, Row, alpaca_record, prompt_record, sharegpt_record
from rds_dagster.demo.phrases import Conversation

LONG_ANSWER_CHARS = 1_200_000  # above cleaning.max_chars, whose default is one million
ROWS_PER_POOL = 14  # conversations that broken_rows needs at most

Broken = list[tuple[str, Row]]


def broken_rows(pool: str, sound: list[Conversation]) -> Broken:
    """The broken rows of one pool, made from ``sound`` single exchanges (at least ROWS_PER_POOL)."""
    make = {"arithmetic": _messages, "programs": _alpaca, "reading": _parquet, "chat": _sharegpt, "translation": _pairs, "noise": _crawl}[pool]
    return make([(conversation[0]["content"], conversation[1]["content"]) for conversation in sound])


def _turns(question: str, answer: str, **changed: str) -> dict[str, object]:
    roles = {"user": "user", "assistant": "assistant", **changed}
    return {"id": "broken", "messages": [{"role": roles["user"], "content": question}, {"role": roles["assistant"], "content": answer}]}


def _messages(texts: list[tuple[str, str]]) -> Broken:
    q = [question for question, _ in texts]
    a = [answer for _, answer in texts]
    return [
        ("malformed_json", json.dumps(_turns(q[0], a[0])).encode()[:-25]),
        ("malformed_json", str(_turns(q[1].replace("'", ""), a[1].replace("'", ""))).encode()),
        ("invalid_utf8", json.dumps(_turns(q[2] + " Caf\u00e9!", a[2]), ensure_ascii=False).encode("latin-1")),
        ("not_an_object", ["user", q[3], "assistant", a[3]]),
        ("unknown_role", _turns(q[4], a[4], assistant="narrator")),
        ("unknown_shape", {"id": "broken", "text": f"{q[5]} {a[5]}"}),
        ("bad_structure", {"id": "broken", "messages": {"role": "user", "content": q[6]}}),
        ("bad_structure", {"id": "broken", "messages": [{"role": "assistant", "content": a[7]}]}),
        ("no_answer", {"id": "broken", "messages": [{"role": "user", "content": q[8]}]}),
        ("empty_answer", _turns(q[9], "")),
        ("empty_answer", _turns(q[10], " \n\t ")),
        ("control_characters", _turns(q[11], a[11] + "\x07")),
        ("broken_unicode", _turns(q[12] + " \ud800", a[12])),
    ]


def _alpaca(texts: list[tuple[str, str]]) -> Broken:
    def record(number: int, **changed: object) -> dict[str, object]:
        question, answer = texts[number]
        return {**alpaca_record("broken", Draft([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])), **changed}

    missing = record(2)
    del missing["output"]
    return [
        ("empty_answer", record(0, output="")),
        ("empty_answer", record(1, output="\n\n")),
        ("unknown_shape", missing),
        ("bad_structure", record(3, output=None)),
        ("bad_structure", record(4, output=["def", "f"])),
        ("malformed_json", json.dumps(record(5)).encode() + b"}"),
        ("control_characters", record(6, output="def \x00stop():\n    pass")),
        ("too_long", record(7, output="x = 1\n" * (LONG_ANSWER_CHARS // 6))),
        ("empty_question", record(8, instruction="  ", input="")),
    ]


def _parquet(texts: list[tuple[str, str]]) -> Broken:
    def record(number: int, **changed: object) -> dict[str, object]:
        return {"id": "broken", "prompt": texts[number][0], "response": texts[number][1], **changed}

    return [
        ("empty_answer", record(0, response="")),
        ("empty_answer", record(1, response="   ")),
        ("bad_structure", record(2, response=None)),
        ("control_characters", record(3, prompt=texts[3][0].replace(" ", "\x1b", 1))),
        ("broken_unicode", record(4, prompt=texts[4][0] + " \ufffd\ufffd")),
        ("invalid_utf8", record(5, response=texts[5][1].encode() + b"\xff\xfe")),
    ]


def _sharegpt(texts: list[tuple[str, str]]) -> Broken:
    def turns(number: int, human: str = "human", gpt: str = "gpt") -> list[dict[str, str]]:
        return [{"from": human, "value": texts[number][0]}, {"from": gpt, "value": texts[number][1]}]

    sound = sharegpt_record("broken", Draft([{"role": "user", "content": texts[6][0]}, {"role": "assistant", "content": texts[6][1]}]))
    return [
        ("unknown_role", {"id": "broken", "conversations": turns(0, gpt="moderator")}),
        ("no_answer", {"id": "broken", "conversations": [*turns(1), {"from": "human", "value": "Are you still there?"}]}),
        ("unknown_shape", {"id": "broken", "dialogue": list(turns(2))}),
        ("not_an_object", f"{texts[3][0]} {texts[3][1]}"),
        ("broken_unicode", {"id": "broken", "conversations": [*turns(4), {"from": "human", "value": "\ud83d"}, {"from": "gpt", "value": "Nice!"}]}),
        ("empty_answer", {"id": "broken", "conversations": [*turns(5), {"from": "human", "value": "And then?"}, {"from": "gpt", "value": ""}]}),
        ("bad_structure", {**sound, "conversations": []}),
        ("bad_structure", {"id": "broken", "conversations": [*turns(7), {"from": "system", "value": "Be brief."}, *turns(8)]}),
    ]


def _pairs(texts: list[tuple[str, str]]) -> Broken:
    number_as_text: dict[str, object] = {"id": "broken", "messages": [{"role": "user", "content": texts[3][0]}, {"role": "assistant", "content": 17}]}
    return [
        ("malformed_json", json.dumps(_turns(*texts[0])).encode().replace(b'"messages"', b"messages")),
        ("invalid_utf8", json.dumps(_turns(texts[1][0], texts[1][1] + " \u00df\u00fc"), ensure_ascii=False).encode("latin-1", "ignore")),
        ("empty_answer", _turns(texts[2][0], "")),
        ("bad_structure", number_as_text),
        ("broken_unicode", _turns(texts[4][0], texts[4][1] + "\udc80")),
        ("unknown_role", _turns(*texts[5], user="reader")),
    ]


def _crawl(texts: list[tuple[str, str]]) -> Broken:
    def record(number: int, **changed: object) -> dict[str, object]:
        question, answer = texts[number]
        return {**prompt_record("broken", Draft([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "crawl")), **changed}

    return [
        ("malformed_json", b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
        ("malformed_json", b'{"prompt": "one", "prompt": "two", "response": "which?"}'),
        ("not_an_object", None),
        ("not_an_object", 404),
        ("control_characters", record(0, prompt="\x1b[31m" + texts[0][0])),
        ("control_characters", record(1, response="\x00\x00")),
        ("empty_answer", record(2, response="")),
        ("empty_answer", record(3, response="\u00a0")),
        ("empty_question", record(4, prompt="")),
        ("broken_unicode", record(5, response="\ufffd\ufffd\ufffd")),
    ]
