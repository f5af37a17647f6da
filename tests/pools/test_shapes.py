import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster.pools.shapes import ALIASES, Conversation, Rejected, detect_shape, fits_a_shape, to_messages
from rds_dagster.schema import MESSAGE_FIELDS, ROLES

HELLO = [{"role": "user", "content": " Hi \n"}, {"role": "assistant", "content": "Hello!"}]


def talk(value, shape="auto"):
    got = to_messages(value, shape)
    assert isinstance(got, Conversation), got
    return got


def refused(value, shape="auto"):
    got = to_messages(value, shape)
    assert isinstance(got, Rejected), got
    return got.reason, got.detail


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"messages": HELLO}, "messages"),
        ({"conversations": [{"from": "human", "value": " Hi \n"}, {"from": "gpt", "value": "Hello!"}]}, "sharegpt"),
        ({"instruction": " Hi \n", "input": "", "output": "Hello!"}, "alpaca"),
        ({"instruction": " Hi \n", "output": "Hello!"}, "alpaca"),
        ({"prompt": " Hi \n", "response": "Hello!"}, "prompt_response"),
        ({"prompt": " Hi \n", "completion": "Hello!"}, "prompt_response"),
        ({"question": " Hi \n", "answer": "Hello!"}, "prompt_response"),
        ({"question": " Hi \n", "response": "Hello!"}, "prompt_response"),
        ({"instruction": " Hi \n", "context": "", "response": "Hello!", "category": "open_qa"}, "prompt_response"),
    ],
)
def test_every_shape_is_detected_and_comes_out_verbatim(value, shape):
    assert detect_shape(value) == shape
    assert fits_a_shape(list(value))
    assert talk(value).messages == HELLO
    assert talk(value, shape).messages == HELLO


def test_input_and_context_follow_the_instruction_after_an_empty_line():
    assert talk({"instruction": "Add.", "input": "2 3", "output": "5"}).messages[0]["content"] == "Add.\n\n2 3"
    assert talk({"instruction": "Add.", "context": "2 3", "response": "5"}).messages[0]["content"] == "Add.\n\n2 3"
    assert talk({"instruction": "Add.", "input": " \n", "output": "5"}).messages[0]["content"] == "Add."


def test_a_table_that_holds_two_shapes_is_read_row_by_row():
    empty = dict.fromkeys(["messages", "instruction", "output", "source"])
    assert talk({**empty, "instruction": "Hi", "output": "Ho"}).messages == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert talk({**empty, "messages": HELLO}).messages == HELLO
    assert refused(empty) == ("bad_structure", "messages is missing or null; expected a list of turns")


@pytest.mark.parametrize(("alias", "role"), sorted(ALIASES.items()))
def test_common_aliases_become_roles_in_any_case(alias, role):
    for written in (alias, alias.upper(), f" {alias.title()} "):
        assert talk({"conversations": [{"from": written, "value": "x"}]}).messages == [{"role": role, "content": "x"}]


def test_system_text_and_history_become_turns():
    value = {"system": "Be kind.", "history": [["a", "b"], ["c", "d"]], "instruction": "e", "input": None, "output": "f"}
    messages = talk(value).messages
    assert [m["content"] for m in messages] == ["Be kind.", "a", "b", "c", "d", "e", "f"]
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 3]
    assert talk({"system_prompt": "S", "question": "q", "response": "r"}).messages[0] == {"role": "system", "content": "S"}
    assert talk({"system": "S", "messages": [{"role": "system", "content": "own"}, *HELLO]}).messages[0]["content"] == "own"
    assert talk({"system": "", "messages": HELLO}).messages == HELLO


def test_text_parts_are_joined_and_other_parts_are_refused():
    parts = [{"type": "text", "text": "a ", "image": None}, {"type": "text", "text": " b"}, "c"]
    assert talk({"messages": [{"role": "user", "content": parts}]}).messages[0]["content"] == "a  bc"
    image = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert refused({"messages": [{"role": "user", "content": image}]}) == (
        "not_text",
        "messages[0].content[1] is a part of type 'image_url'; only text is read",
    )


def test_tool_calls_are_kept_as_json_text_with_sorted_keys():
    call = {"type": "function", "id": "c1", "function": {"name": "wetter", "arguments": '{"ort": "Köln"}'}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = {"role": "tool", "content": "Regen", "tool_call_id": "c1", "name": "wetter"}
    message, tool = talk({"messages": [turn, answer]}).messages
    text = '[{"function": {"arguments": "{\\"ort\\": \\"Köln\\"}", "name": "wetter"}, "id": "c1", "type": "function"}]'
    assert message == {"role": "assistant", "content": "", "tool_calls": text}
    assert tool == answer
    assert talk({"messages": [{**turn, "tool_calls": text}]}).messages == [message]
    with_nulls = {**call, "index": None, "function": {**call["function"], "parameters": None}}
    assert talk({"messages": [{**turn, "tool_calls": [with_nulls]}]}).messages == [message]
    assert "tool_calls" not in talk({"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]}).messages[0]


def test_nulls_in_the_arguments_of_a_call_are_kept():
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"limit": None}}}]}
    assert json.loads(talk({"messages": [turn]}).messages[0]["tool_calls"])[0]["function"]["arguments"] == {"limit": None}


def test_the_older_function_call_is_a_tool_call():
    turn = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert talk({"messages": [turn]}).messages == [{"role": "assistant", "content": "", "tool_calls": '[{"arguments": "{}", "name": "f"}]'}]


def test_source_and_id_are_taken_where_they_are_given():
    assert talk({"messages": HELLO, "source": "flan", "dataset": "x", "id": 7}) == Conversation(HELLO, "flan", "7")
    assert talk({"messages": HELLO, "source": None, "dataset": "x", "id": None, "uuid": "u"}) == Conversation(HELLO, "x", "u")
    assert talk({"messages": HELLO, "source": {"a": 1}, "idx": 0}) == Conversation(HELLO, None, "0")
    assert talk({"messages": HELLO, "source": "a\ud800", "id": "\udc00"}) == Conversation(HELLO, "a\\ud800", "\\udc00")


def test_an_unknown_role_is_named_with_the_known_ones():
    reason, detail = refused({"messages": [*HELLO, {"role": "narrator\ud800", "content": "x"}]})
    assert reason == "unknown_role"
    assert detail.startswith("the role of messages[2] is 'narrator\\ud800'; known are ai, assistant, bot")
    detail.encode()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"messages": "Hi"}, "messages is of type str; expected a list of turns"),
        ({"messages": []}, "messages is an empty list"),
        ({"messages": [None]}, "messages[0] is missing or null; expected an object with role and content"),
        ({"messages": [{"content": "x"}]}, "messages[0] has no role"),
        ({"messages": [{"role": "user"}]}, "the content of messages[0] is missing; expected text"),
        ({"messages": [{"role": "user", "content": 3}]}, "the content of messages[0] is of type int; expected text"),
        ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0] is of type int; expected a part with type and text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "the text of messages[0].content[0] is missing or null; expected text"),
        ({"messages": [{"role": "user", "content": "x", "name": {}}]}, "the name of messages[0] is of type dict; expected text"),
        ({"messages": [{"role": "assistant", "tool_calls": "f(x)"}]}, "the tool_calls of messages[0] are not JSON"),
        ({"instruction": "x", "output": None}, "output is missing or null; expected text"),
        ({"instruction": "x", "output": "y", "input": 3}, "input is of type int; expected text"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "history[0] is of type list; expected a pair of texts"),
        ({"prompt": ["x"], "response": "y"}, "prompt is of type list; expected text"),
        ({"messages": HELLO, "system": 3}, "system is of type int; expected text"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_named(value, words):
    reason, detail = refused(value)
    assert reason == "bad_structure"
    assert detail.startswith(words)


def test_an_unknown_shape_lists_its_keys_and_the_known_shapes():
    assert detect_shape({"text": "x"}) is None
    reason, detail = refused({"text": "x", "b": 1})
    assert reason == "unknown_shape"
    assert detail.startswith("the keys are 'b', 'text'; expected messages; conversations;")
    assert refused({}) == ("unknown_shape", detail.replace("'b', 'text'", "none"))


def test_a_named_shape_holds_for_records_that_have_two():
    both = {"messages": HELLO, "prompt": "p", "response": "r"}
    assert talk(both).messages == HELLO
    assert talk(both, "prompt_response").messages[0]["content"] == "p"
    assert refused(both, "alpaca") == ("bad_structure", "instruction is missing or null; expected text")


KEYS = ["messages", "conversations", "instruction", "input", "output", "prompt", "response", "system", "history", "id", "source"]
TURN_KEYS = ["role", "from", "content", "value", "tool_calls", "name", "tool_call_id", "type", "text"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["user", "gpt", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TURN_KEYS) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(value=st.dictionaries(st.sampled_from(KEYS), ANY, max_size=4), shape=st.sampled_from(["auto", "messages", "sharegpt", "alpaca", "prompt_response"]))
def test_any_record_is_a_whole_conversation_or_is_rejected_in_words_that_fit_in_a_table(value, shape):
    got = to_messages(value, shape)
    if isinstance(got, Rejected):
        got.detail.encode()
        assert len(got.detail) < 500
        return
    (got.source or "").encode() + (got.original_id or "").encode()
    assert got.messages
    for message in got.messages:
        assert message["role"] in ROLES
        assert set(message) <= set(MESSAGE_FIELDS)
        assert all(isinstance(text, str) for text in message.values())
