"""Small Python functions from a description; each carries an example call whose result is computed from the meaning, not by running the text."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from rds_dagster.demo.known_functions import known_functions
from rds_dagster.demo.phrases import say

IntOp = Callable[[int], int]


@dataclass(frozen=True)
class Program:
    """A function: what it takes and returns in words, its source, and one call with its result as Python expressions."""

    name: str
    takes: str
    gives: str
    code: str
    call: str
    result: str


@dataclass(frozen=True)
class Part:
    """One step of a pipeline: in a name, in words, as an expression over ``x`` (or over ``items``), and what it means."""

    name: str
    words: str
    expression: str


_KEEP: tuple[tuple[Part, Callable[[int], bool]], ...] = (
    (Part("even", "even numbers", "x % 2 == 0"), lambda x: x % 2 == 0),
    (Part("odd", "odd numbers", "x % 2 == 1"), lambda x: x % 2 == 1),
    (Part("positive", "numbers above zero", "x > 0"), lambda x: x > 0),
    (Part("negative", "negative numbers", "x < 0"), lambda x: x < 0),
    (Part("big", "numbers of at least 10", "x >= 10"), lambda x: x >= 10),
    (Part("two_digit", "numbers with exactly two digits", "10 <= abs(x) <= 99"), lambda x: 10 <= abs(x) <= 99),
    (Part("threes", "multiples of three", "x % 3 == 0"), lambda x: x % 3 == 0),
    (Part("fives", "numbers divisible by five", "x % 5 == 0"), lambda x: x % 5 == 0),
    (Part("nonzero", "numbers other than zero", "x != 0"), lambda x: x != 0),
    (Part("ending_in_one", "numbers whose last digit is 1", "abs(x) % 10 == 1"), lambda x: abs(x) % 10 == 1),
)
_CHANGE: tuple[tuple[Part, IntOp], ...] = (
    (Part("squares", "the squares of", "x * x"), lambda x: x * x),
    (Part("doubles", "twice each of", "2 * x"), lambda x: 2 * x),
    (Part("sizes", "the absolute values of", "abs(x)"), abs),
    (Part("opposites", "the negatives of", "-x"), lambda x: -x),
    (Part("cubes", "the cubes of", "x ** 3"), lambda x: x**3),
    (Part("halves", "the rounded-down halves of", "x // 2"), lambda x: x // 2),
    (Part("last_digits", "the last digits of", "abs(x) % 10"), lambda x: abs(x) % 10),
    (Part("successors", "the successors of", "x + 1"), lambda x: x + 1),
)
_GATHER: tuple[tuple[Part, Callable[[list[int]], object]], ...] = (
    (Part("sum", "the sum of", "sum(items)"), sum),
    (Part("largest", "the largest of", "max(items, default=None)"), lambda items: max(items, default=None)),
    (Part("smallest", "the smallest of", "min(items, default=None)"), lambda items: min(items, default=None)),
    (Part("sorted", "a sorted list of", "sorted(items)"), sorted),
    (Part("distinct", "how many different values there are among", "len(set(items))"), lambda items: len(set(items))),
    (Part("reversed", "a list in reverse order of", "items[::-1]"), lambda items: items[::-1]),
    (Part("mean", "the average (0 if there are none) of", "sum(items) / len(items) if items else 0"), lambda items: sum(items) / len(items) if items else 0),
    (Part("first_two", "a list of the first two of", "items[:2]"), lambda items: items[:2]),
    (Part("joined", "a text, separated by dashes, of", "'-'.join(str(item) for item in items)"), lambda items: "-".join(map(str, items))),
)
_WORD_KEEP: tuple[tuple[Part, Callable[[str], bool]], ...] = (
    (Part("long", "words of more than four letters", "len(x) > 4"), lambda x: len(x) > 4),
    (Part("short", "words of at most three letters", "len(x) <= 3"), lambda x: len(x) <= 3),
    (Part("vowel", "words that start with a vowel", "x[0].lower() in 'aeiou'"), lambda x: x[0].lower() in "aeiou"),
    (Part("mirrored", "words that read the same backwards", "x == x[::-1]"), lambda x: x == x[::-1]),
    (Part("with_e", "words that contain the letter e", "'e' in x.lower()"), lambda x: "e" in x.lower()),
    (Part("capital", "words that begin with a capital letter", "x[0].isupper()"), lambda x: x[0].isupper()),
    (Part("ending_in_s", "words that end in s", "x.endswith('s')"), lambda x: x.endswith("s")),
)
_WORD_CHANGE: tuple[tuple[Part, Callable[[str], object]], ...] = (
    (Part("reversed", "spelled backwards", "x[::-1]"), lambda x: x[::-1]),
    (Part("upper", "in upper case", "x.upper()"), str.upper),
    (Part("lengths", "replaced by their lengths", "len(x)"), len),
    (Part("initials", "cut to their first letter", "x[0]"), lambda x: x[0]),
    (Part("endings", "cut to their last two letters", "x[-2:]"), lambda x: x[-2:]),
    (Part("starred", "with each a turned into a star", "x.replace('a', '*')"), lambda x: x.replace("a", "*")),
)
_WORD_GATHER: tuple[tuple[Part, Callable[[list[object]], object]], ...] = (
    (Part("list", "as a list", "items"), list),
    (Part("joined", "joined by commas", "', '.join(str(item) for item in items)"), lambda items: ", ".join(map(str, items))),
    (Part("numbered", "as a dictionary from position to value", "dict(enumerate(items))"), lambda items: dict(enumerate(items))),
    (Part("last", "but only the last of them, or None", "items[-1] if items else None"), lambda items: items[-1] if items else None),
    (Part("sorted", "in sorted order", "sorted(items)"), lambda items: sorted(items, key=lambda item: item)),  # type: ignore[arg-type, return-value]
)
_SENTENCES = (
    "the level of noise was high in Ede",
    "Anna ate eight ripe apples on Sunday",
    "a radar saw the kayak at noon",
    "every bus stops near our old house",
    "Otto sells used books and maps",
    "we refer to civic duties in class",
    "the cat sits on warm bricks",
    "Eve is at the opera as usual",
    "some islands have no trees at all",
)
_RECORDS = (
    "cities and their inhabitants",
    "pupils and their marks",
    "products and their stock",
    "players and their points",
    "rivers and their lengths",
    "rooms and their temperatures",
)


def program_conversation(rng: random.Random) -> tuple[str, str, str]:
    """One task as (instruction, input, output): the input is an example call or empty; the output holds the function."""
    program = make_program(rng)
    instruction = say(
        rng,
        "[Write a Python function {q}|Implement {q}, a Python function|In Python, define {q}|Please "
        "code a small function {q}|Complete this task: a Python function {q}] "
        "[that takes|which is given] {takes} and [returns|gives back] {gives}.",
        {"q": f"`{program.name}`", "takes": program.takes, "gives": program.gives},
    )
    example = f"{program.call} == {program.result}"
    shown = say(rng, "[Example|For instance|Test]: ") + example if rng.random() < 0.5 else ""
    output = f"```python\n{program.code}\n```" if rng.random() < 0.6 else program.code
    if not shown and rng.random() < 0.5:
        output += say(rng, "\n\n[Here {e}.|For example, {e}.|A quick check: {e}.]", {"e": example})
    return instruction, shown, output


def make_program(rng: random.Random) -> Program:
    """A program of one of the families: over a list of integers, over the words of a text, over a dictionary, or a known one."""
    family = rng.random()
    if family < 0.42:
        return _over_numbers(rng)
    if family < 0.7:
        return _over_words(rng)
    if family < 0.85:
        return _over_mapping(rng)
    return rng.choice(_KNOWN)


_KNOWN = tuple(Program(*fields) for fields in known_functions())


def _over_numbers(rng: random.Random) -> Program:
    (keep, test), (change, apply), (gather, finish) = rng.choice(_KEEP), rng.choice(_CHANGE), rng.choice(_GATHER)
    numbers = [rng.choice((rng.randrange(-12, 35), rng.randrange(0, 130))) for _ in range(rng.randrange(4, 8))]
    argument = rng.choice(("numbers", "values", "xs", "data"))
    name = rng.choice((f"{gather.name}_{change.name}_of_{keep.name}", f"{keep.name}_{change.name}_{gather.name}", f"{gather.name}_{keep.name}_{change.name}"))
    code = _pipeline(rng, name, argument, argument, keep.expression, change.expression, gather.expression, hint="list[int]")
    result = finish([apply(x) for x in numbers if test(x)])
    gives = f"{gather.words} {change.words} the {keep.words} in it"
    return Program(
        name, rng.choice(("a list of integers", "a list of whole numbers", "some integers in a list")), gives, code, f"{name}({numbers!r})", repr(result)
    )


def _over_words(rng: random.Random) -> Program:
    (keep, test), (change, apply), (gather, finish) = rng.choice(_WORD_KEEP), rng.choice(_WORD_CHANGE), rng.choice(_WORD_GATHER)
    text = rng.choice(_SENTENCES)
    name = rng.choice((f"{keep.name}_words_{change.name}", f"{change.name}_{keep.name}_words", f"pick_{keep.name}_{gather.name}"))
    argument = rng.choice(("text", "sentence", "line"))
    code = _pipeline(rng, name, argument, f"{argument}.split()", keep.expression, change.expression, gather.expression, hint="str")
    result = finish([apply(word) for word in text.split() if test(word)])
    gives = f"its {keep.words}, {change.words}, {gather.words}"
    return Program(name, rng.choice(("a sentence", "a string of words", "a line of text")), gives, code, f"{name}({text!r})", repr(result))


def _pipeline(rng: random.Random, name: str, argument: str, source: str, keep: str, change: str, gather: str, *, hint: str) -> str:
    head = f"def {name}({argument}: {hint}):" if rng.random() < 0.4 else f"def {name}({argument}):"
    body = rng.randrange(3)
    if body == 0:
        return f"{head}\n    items = [{change} for x in {source} if {keep}]\n    return {gather}"
    if body == 1:
        return f"{head}\n    items = []\n    for x in {source}:\n        if {keep}:\n            items.append({change})\n    return {gather}"
    return f"{head}\n    kept = filter(lambda x: {keep}, {source})\n    items = list(map(lambda x: {change}, kept))\n    return {gather}"


def _over_mapping(rng: random.Random) -> Program:
    names = rng.sample(("oslo", "lima", "rome", "bern", "kyiv", "cairo", "quito", "delhi", "paris", "sofia"), rng.randrange(3, 6))
    table = {name: rng.randrange(1, 60) for name in names}
    limit = rng.randrange(10, 45)
    above = {key: value for key, value in table.items() if value > limit}
    mean = sum(table.values()) / len(table)
    ranked = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    choices: tuple[tuple[str, str, str, object], ...] = (
        (f"above_{limit}", f"a dictionary of only the entries above {limit}", f"{{k: v for k, v in table.items() if v > {limit}}}", above),
        (
            f"names_above_{limit}",
            f"the keys whose value is larger than {limit}, alphabetically",
            f"sorted(k for k, v in table.items() if v > {limit})",
            sorted(above),
        ),
        (
            f"total_up_to_{limit}",
            f"the total of the values that do not exceed {limit}",
            f"sum(v for v in table.values() if v <= {limit})",
            sum(table.values()) - sum(above.values()),
        ),
        (
            "ranking",
            "the keys from the highest value to the lowest, ties by name",
            "[k for k, _ in sorted(table.items(), key=lambda item: (-item[1], item[0]))]",
            [k for k, _ in ranked],
        ),
        ("leader", "the key of the highest value, the alphabetically first on a tie", "min(table, key=lambda k: (-table[k], k))", ranked[0][0]),
        (
            "over_the_mean",
            "how many values lie above the average",
            "sum(v > sum(table.values()) / len(table) for v in table.values())",
            sum(v > mean for v in table.values()),
        ),
        ("spread", "the difference between the largest and the smallest value", "max(table.values()) - min(table.values())", ranked[0][1] - ranked[-1][1]),
        (
            "grouped_by_initial",
            "a dictionary from first letter to the sorted keys with it",
            "{c: sorted(k for k in table if k[0] == c) for c in sorted({k[0] for k in table})}",
            {c: sorted(k for k in table if k[0] == c) for c in sorted({k[0] for k in table})},
        ),
        (
            f"raised_by_{limit}",
            f"a new dictionary with every value raised by {limit}",
            f"{{k: v + {limit} for k, v in table.items()}}",
            {k: v + limit for k, v in table.items()},
        ),
    )
    name, gives, expression, result = rng.choice(choices)
    name = rng.choice((name, f"find_{name}", f"get_{name}"))
    body = f"    return {expression}" if rng.random() < 0.5 else f'    """{gives[0].upper()}{gives[1:]}."""\n    answer = {expression}\n    return answer'
    return Program(name, f"a dictionary of {rng.choice(_RECORDS)}", gives, f"def {name}(table):\n{body}", f"{name}({table!r})", repr(result))
