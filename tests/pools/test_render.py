import pytest

from rds_dagster.errors import SettingsError
from rds_dagster.pools.render import render

TALK = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "\nWhat is 2 + 2?\n"},
    {"role": "assistant", "content": " 4\n"},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "content": "6"},
]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("full", "<|system|>\nBe brief.\n<|user|>\nWhat is 2 + 2?\n<|assistant|>\n4</s>\n<|user|>\nAnd 3 + 3?\n<|assistant|>\n6</s>"),
        ("prompt", "<|system|>\nBe brief.\n<|user|>\nWhat is 2 + 2?</s>"),
        ("label", "<|assistant|>\n4</s>"),
        ("first_two", "<|user|>\nWhat is 2 + 2?\n<|assistant|>\n4</s>"),
    ],
)
def test_each_part_of_a_conversation_has_the_papers_text(what, text):
    assert render(TALK, what=what, eos="</s>") == text


def test_a_conversation_without_a_system_turn_has_none_in_its_prompt():
    assert render(TALK[1:], what="prompt", eos="[SEP]") == "<|user|>\nWhat is 2 + 2?[SEP]"


def test_a_full_text_that_ends_in_a_prompt_has_no_end_mark():
    assert render(TALK[1:2], what="full", eos="</s>") == "<|user|>\nWhat is 2 + 2?"


def test_tools_and_their_calls_are_part_of_the_text():
    talk = [
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": '[{"name": "weather"}]'},
        {"role": "tool", "content": " sunny ", "name": "weather", "tool_call_id": "7"},
        {"role": "assistant", "content": "Sunny.", "tool_calls": '[{"name": "done"}]'},
    ]
    assert render(talk, what="full", eos="|") == (
        '<|user|>\nWeather in Rome?\n<|assistant|>\n[{"name": "weather"}]|\n<|tool|>\nsunny\n<|assistant|>\nSunny.\n[{"name": "done"}]|'
    )
    assert render(talk, what="label", eos="|") == '<|assistant|>\n[{"name": "weather"}]|'


@pytest.mark.parametrize(
    ("what", "messages", "words"),
    [
        ("full", [], "a conversation without messages has no text"),
        ("prompt", TALK[2:3], "the prompt of a conversation needs a turn of the user, and this one has none"),
        ("label", TALK[:2], "the label of a conversation needs a turn of the assistant, and this one has none"),
        ("first_two", TALK[:2], "the first_two of a conversation needs a turn of the assistant"),
    ],
)
def test_a_part_that_the_conversation_lacks_is_an_error(what, messages, words):
    with pytest.raises(ValueError, match=words):
        render(messages, what=what, eos="</s>")


def test_an_unknown_part_is_an_error_that_lists_the_known():
    with pytest.raises(SettingsError, match="what is embedded is 'prompts'; expected one of first_two, full, label, prompt; did you mean 'prompt'"):
        render(TALK, what="prompts", eos="</s>")  # type: ignore[arg-type]
