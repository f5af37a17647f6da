import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster.cleaning.filters import RULES, Drop, first_drop
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.errors import SettingsError

SETTINGS = CleaningSettings(max_chars=20)


def talk(*turns: str) -> list[dict[str, str]]:
    """Turns as 'u:content'."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


@pytest.mark.parametrize(
    ("messages", "drop"),
    [
        (talk("u:Hi", "a:\ud83d there"), Drop("broken_unicode", "U+D83D at character 1 of turn 2")),
        (talk("u:caf\ufffd", "a:Yes"), Drop("broken_unicode", "U+FFFD at character 4 of turn 1")),
        ([*talk("u:Hi"), {"role": "assistant", "content": "Yes", "name": "\udc00"}], Drop("broken_unicode", "U+DC00 at character 1 of turn 2")),
        (talk("s:Be kind", "a:Yes"), Drop("bad_structure", "no user turn among roles ['system', 'assistant']")),
        (talk("u:Hi", "s:Be kind", "a:Yes"), Drop("bad_structure", "a system turn stands after a user turn")),
        (talk("u:Hi"), Drop("no_answer", "the last turn is the user's")),
        (talk("u:Hi", "a:Yes", "t:12:00"), Drop("no_answer", "the last turn is the tool's")),
        (talk("u:Hi", "a:"), Drop("empty_answer", "turn 2 is the assistant's and holds nothing")),
        (talk("u:Hi", "a: \n\t\u00a0", "u:So?", "a:Yes"), Drop("empty_answer", "turn 2 is the assistant's and holds nothing")),
        (talk("u: ", "a:Yes", "u:\n", "a:Yes"), Drop("empty_question", "no user turn holds anything")),
        (talk("u:Hi\x00", "a:Yes"), Drop("control_characters", "U+0000 at character 3 of turn 1")),
        (talk("u:Hi", "a:\x1b[31mred"), Drop("control_characters", "U+001B at character 1 of turn 2")),
        (talk("u:Hi", "a:it\u0092s"), Drop("control_characters", "U+0092 at character 3 of turn 2")),
        (talk("u:Hi", "a:" + 19 * "x"), Drop("too_long", "21 characters, at most 20 are kept (cleaning.max_chars)")),
    ],
)
def test_each_rule_drops_with_its_reason(messages, drop):
    assert first_drop(messages, SETTINGS) == drop


@pytest.mark.parametrize(
    "messages",
    [
        talk("u:Hi", "a:Yes"),
        talk("s:Be kind", "s:Be brief", "u:Hi", "a:Yes"),
        talk("a:Welcome", "u:Hi", "a:Yes"),
        talk("u:Hi", "u:So?", "a:Yes"),
        talk("u:", "a:Yes", "u:So?", "a:Yes"),
        talk("u:Hi\t\n\r\f\x85", "a:\U0001f44d \u200b"),
        talk("s:", "u:Hi", "a:Yes"),
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": "[]"}, *talk("t:12:00", "a:Noon")],
        talk("u:Hi", "a:" + 18 * "x"),
    ],
)
def test_what_is_sound_stays(messages):
    assert first_drop(messages, SETTINGS) is None


def test_the_first_rule_that_fits_gives_the_reason():
    messages = talk("s:\ufffd\x00" + 30 * "x")
    order = []
    mends = {
        "broken_unicode": lambda: messages[0].update(content=messages[0]["content"].replace("\ufffd", "")),
        "bad_structure": lambda: messages.append({"role": "user", "content": " "}),
        "no_answer": lambda: messages.append({"role": "assistant", "content": " "}),
        "empty_answer": lambda: messages[2].update(content="Yes"),
        "empty_question": lambda: messages[1].update(content="Hi"),
        "control_characters": lambda: messages[0].update(content=messages[0]["content"].replace("\x00", "")),
        "too_long": lambda: messages[0].update(content=""),
    }
    while drop := first_drop(messages, SETTINGS):
        order.append(drop.reason)
        mends[drop.reason]()
    assert order == list(mends) == [rule.__name__ for rule in RULES]


@given(st.lists(st.tuples(st.sampled_from("suat"), st.text("a \n\x07\ufffd", max_size=4)), min_size=1, max_size=5))
def test_what_stays_holds_every_promise(turns):
    messages = talk(*(f"{role}:{content}" for role, content in turns))
    before = [dict(message) for message in messages]
    drop = first_drop(messages, CleaningSettings(max_chars=9))
    assert messages == before
    assert (drop is None) == (
        messages[-1]["role"] == "assistant"
        and any(m["role"] == "user" and m["content"].strip() for m in messages)
        and all(m["content"].strip() for m in messages if m["role"] == "assistant")
        and "system" not in [m["role"] for m in messages][[m["role"] for m in messages].index("user") :]
        and not any(mark in m["content"] for m in messages for mark in "\x07\ufffd")
        and sum(len(m["content"]) for m in messages) <= 9
    )


@pytest.mark.parametrize("max_chars", [0, -1, True])
def test_a_limit_that_is_none_is_refused(max_chars):
    with pytest.raises(SettingsError, match=f"cleaning.max_chars is {max_chars}; expected a whole number of characters of 1 or more"):
        CleaningSettings(max_chars)
