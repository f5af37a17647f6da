import hashlib
import json
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster import schema
from rds_dagster.schema import duplicate_key, example_id, id_and_duplicate_key

contents = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def said(*contents: str) -> list[schema.Message]:
    return [{"role": role, "content": content} for role, content in zip(("user", "assistant") * 3, contents, strict=False)]


def test_an_id_is_blake2b_of_the_json_list_of_the_messages():
    text = '[{"role":"user","content":"Ça va?\\n"},{"role":"assistant","content":" Oui. "}]'
    by_hand = hashlib.blake2b(text.encode(), digest_size=16).digest()
    assert example_id(said("Ça va?\n", " Oui. ")) == by_hand
    assert by_hand.hex() == "e3ebafc164ce44b35234a2dc2a6acf8f"


def test_fields_come_in_one_order_and_absent_ones_not_at_all():
    call = '[{"function":{"arguments":"{}","name":"now"}}]'
    text = '[{"role":"assistant","content":"","name":"bot","tool_calls":"[{\\"function\\":{\\"arguments\\":\\"{}\\",\\"name\\":\\"now\\"}}]"},' + (
        '{"role":"tool","content":"12:00","tool_call_id":"c1"}]'
    )
    messages = [
        {"tool_calls": call, "name": "bot", "content": "", "role": "assistant", "tool_call_id": None},
        {"tool_call_id": "c1", "content": "12:00", "role": "tool", "weight": 1},
    ]
    assert example_id(messages) == hashlib.blake2b(text.encode(), digest_size=16).digest()


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(schema.ROLES), "content": contents}, optional=dict.fromkeys(["name", "tool_calls", "tool_call_id"], contents)
        ),
        max_size=4,
    )
)
def test_an_id_is_that_of_the_json_that_python_writes(messages):
    in_order = [{field: message[field] for field in schema.MESSAGE_FIELDS if field in message} for message in messages]
    text = json.dumps(in_order, ensure_ascii=False, separators=(",", ":"))
    assert example_id(messages) == hashlib.blake2b(text.encode(), digest_size=16).digest()
    assert id_and_duplicate_key(messages) == (example_id(messages), duplicate_key(messages))


@pytest.mark.parametrize("other", ["hi", "Hi ", " Hi", "Hi\n", "Hi.", "Hi\u200b"])
def test_contents_count_verbatim(other):
    assert example_id(said("Hi", "Yes")) != example_id(said(other, "Yes"))


def test_unicode_is_not_normalised():
    composed, decomposed = (unicodedata.normalize(form, "Å") for form in ("NFC", "NFD"))
    assert example_id(said(composed, "a")) != example_id(said(decomposed, "a"))
    assert duplicate_key(said(composed, "a")) != duplicate_key(said(decomposed, "a"))


def test_where_a_message_ends_counts():
    assert len({example_id(said(*parts)) for parts in (("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"))}) == 4


def test_half_of_a_surrogate_pair_has_no_id():
    with pytest.raises(UnicodeEncodeError):
        example_id(said("\ud800", "x"))


@pytest.mark.parametrize("other", ["a  b", " a b", "a b\n", "a\tb", "a\r\n b", "a\u00a0b", "a\u3000b", "\x0ca\x85b"])
def test_white_space_of_any_kind_counts_as_one_blank_in_the_duplicate_key(other):
    assert duplicate_key(said(other, "yes")) == duplicate_key(said("a b", "yes"))
    assert example_id(said(other, "yes")) != example_id(said("a b", "yes"))


@pytest.mark.parametrize("other", ["A b", "ab", "a b.", "a-b", "a\u200bb", "a b b", ""])
def test_nothing_else_is_folded(other):
    assert duplicate_key(said(other, "yes")) != duplicate_key(said("a b", "yes"))


def test_roles_names_and_calls_count_in_the_duplicate_key():
    plain = {"role": "assistant", "content": "x"}
    others = [{"role": "user"}, {"name": "bot"}, {"tool_calls": "[1]"}, {"tool_calls": "[1 ]"}, {"tool_call_id": "c"}]
    assert len({duplicate_key([plain | other]) for other in ({}, *others)}) == 6


def test_the_duplicate_key_of_folded_text_is_its_id():
    assert duplicate_key(said("a b", "yes")) == example_id(said("a b", "yes"))


@given(st.lists(contents, min_size=1, max_size=3), st.lists(contents, min_size=1, max_size=3))
def test_ids_are_equal_only_for_equal_messages_and_keys_only_for_equal_words(one, other):
    assert (example_id(said(*one)) == example_id(said(*other))) == (one == other)
    assert (duplicate_key(said(*one)) == duplicate_key(said(*other))) == ([text.split() for text in one] == [text.split() for text in other])


def test_a_vector_has_the_dimensions_of_its_encoder():
    assert schema.vectors(3).field("vector").type == pa.list_(pa.float16(), 3)
