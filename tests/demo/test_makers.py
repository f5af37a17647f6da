"""Each pool's maker keeps its promise: sums add up, programs run, answers stand in their passage, choices are decided."""

import ast
import random
import re

import pytest

from rds_dagster.demo.arithmetic import arithmetic_conversation, make_story
from rds_dagster.demo.chat import chat_conversation
from rds_dagster.demo.known_functions import known_functions
from rds_dagster.demo.noise import noise_conversation
from rds_dagster.demo.phrases import Distinct, exchange, say, shingles
from rds_dagster.demo.programs import make_program
from rds_dagster.demo.reading import make_reading, reading_conversation
from rds_dagster.demo.translation import translation_conversation


def run(code, call):
    names = {}
    exec(code, names)  # the generator's own text
    return eval(call, names)


def test_every_step_of_an_arithmetic_story_is_right():
    rng = random.Random(5)
    for _ in range(600):
        story = make_story(rng)
        for _, calculation, value in story.steps:
            assert re.fullmatch(r"[0-9 x/+-]+", calculation), calculation
            assert eval(calculation.replace("x", "*")) == value, story
        assert story.answer > 0
        for number in re.findall(r"\d+", story.text):
            assert int(number) > 0, story


def test_an_arithmetic_answer_ends_in_the_number_and_its_unit():
    rng = random.Random(6)
    for _ in range(200):
        answer = arithmetic_conversation(rng)[1]["content"]
        assert re.search(r"\d+ [a-z -]+\.?$", answer), answer


def test_every_made_program_gives_the_result_that_its_meaning_says():
    rng = random.Random(7)
    for _ in range(1500):
        program = make_program(rng)
        ast.parse(program.code)
        assert repr(run(program.code, program.call)) == program.result, program


@pytest.mark.parametrize("known", known_functions(), ids=lambda known: known[0])
def test_known_function_gives_the_result_in_its_header(known):
    name, takes, gives, code, call, result = known
    assert code.startswith(f"def {name}(")
    assert takes and gives
    assert repr(run(code, call)) == result


def test_the_answer_stands_in_the_passage_word_for_word():
    rng = random.Random(8)
    for _ in range(1500):
        reading = make_reading(rng)
        assert reading.answer in reading.passage
        assert reading.question.endswith("?")


def test_a_german_verb_stands_second_and_french_elides():
    rng = random.Random(9)
    said = [translation_conversation(rng) for _ in range(1500)]
    french = [pair[1]["content"] for source, pair in said if source == "en-fr"]
    assert any("ersonne n'ouvre" in text for text in french)
    assert not [text for text in french if re.search(r"\b(ne|que) [aeiouéê]", text)]
    assert {source for source, _ in said} == {"en-de", "en-fr", "en-es"}
    german = [pair[1]["content"] for source, pair in said if source == "en-de"]
    assert any(re.match(r"(Mein|Unser|Der|Die|Das|Ihr|Niemand|Ein)( \w+){0,2} liest ", text) for text in german)


@pytest.mark.parametrize(
    "make",
    [arithmetic_conversation, reading_conversation, chat_conversation, lambda rng: noise_conversation(rng)[1], lambda rng: translation_conversation(rng)[1]],
    ids=["arithmetic", "reading", "chat", "noise", "translation"],
)
def test_no_template_shows_through(make):
    rng = random.Random(10)
    for _ in range(400):
        for message in make(rng):
            assert message["content"].strip()
            assert not re.search(r"[{}\[]|\w\|\w|  +\w", message["content"]), message["content"]


def test_choices_are_decided_from_the_inside_out():
    rng = random.Random(0)
    seen = {say(rng, "[a|b [c|d]] {x}", {"x": "[e|f]"}) for _ in range(100)}
    assert seen == {"a [e|f]", "b c [e|f]", "b d [e|f]"}
    with pytest.raises(KeyError, match="who"):
        say(rng, "{who}")


def test_shingles_are_runs_of_five_words():
    assert shingles(exchange("One two three four", "five SIX")) == {("one", "two", "three", "four", "five"), ("two", "three", "four", "five", "six")}
    assert shingles(exchange("one", "two")) == {("one", "two")}


def test_a_near_duplicate_is_not_taken_and_a_thin_grammar_is_named():
    distinct = Distinct()
    text = "a b c d e f g h i j"
    distinct.take(lambda: exchange(text, "k l m n o"))
    offers = iter([exchange(text, "k l m n p"), exchange("something else altogether was said here today", "yes")])
    assert distinct.take(lambda: next(offers))[1]["content"] == "yes"
    with pytest.raises(AssertionError, match="its grammar is too thin"):
        distinct.take(lambda: exchange(text, "k l m n o"))
