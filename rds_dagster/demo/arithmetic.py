"""Arithmetic word stories with worked answers; every number in an answer is computed, none is written by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from rds_dagster.demo.phrases import NAMES, PLACES, Conversation, exchange, say, sentence_case

Slots = dict[str, str | int]
_THINGS = (
    "apples", "pears", "plums", "quinces", "postcards", "stamps", "comic books", "stickers", "shells", "pebbles", "bits of sea glass", "starfish",
    "tulip bulbs", "seedlings", "bean plants", "strawberries", "marbles", "toy cars", "building bricks", "wooden animals",
)  # fmt: skip
_GROUPS = (
    ("animals on a farm", "sheep", "goats"), ("visitors of a museum", "children", "students"), ("cars in a car park", "red", "blue"),
    ("books in a library", "novels", "atlases"), ("trees in a park", "oaks", "birches"), ("members of a choir", "sopranos", "basses"),
)  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A story with its question, the steps of the solution as (what, calculation, value), and the unit of the last value."""

    text: str
    question: str
    steps: tuple[tuple[str, str, int], ...]
    unit: str

    @property
    def answer(self) -> int:
        """The value of the last step."""
        return self.steps[-1][2]


def arithmetic_conversation(rng: random.Random) -> Conversation:
    """One story as a user turn and its worked answer as the assistant's; the answer ends in the number and its unit."""
    story = make_story(rng)
    asked = [story.text, story.question] if rng.random() < 0.8 else [story.question, story.text]
    prompt = " ".join(asked)
    if rng.random() < 0.25:
        prompt = say(rng, "[Solve this|Work this out and show your steps|Here is a word problem|Please help me with my homework|Think step by step]: ") + prompt
    return exchange(prompt, _worked_answer(rng, story))


def make_story(rng: random.Random) -> Story:
    """A story of one of the kinds below, with fresh people, things and numbers."""
    people = rng.sample(NAMES, 3)
    slots: Slots = {"a": people[0], "b": people[1], "c": people[2], "place": rng.choice(PLACES)}
    return rng.choice(_KINDS)(rng, slots)


def _worked_answer(rng: random.Random, story: Story) -> str:
    final = f"{story.answer} {story.unit}"
    style = rng.randrange(4)
    if style == 0:
        lines = [f"{number}. {sentence_case(what)}: {sum_} = {value}" for number, (what, sum_, value) in enumerate(story.steps, start=1)]
        return "\n".join([*lines, f"Answer: {final}"])
    if style == 1:
        openers = ["The", *(say(rng, "[Then the|We see that the|So the|It follows that the]") for _ in story.steps[1:])]
        parts = [f"{opener} {what} is {sum_} = {value}." for opener, (what, sum_, value) in zip(openers, story.steps, strict=True)]
        return " ".join(parts) + say(rng, " [The answer is|So the answer is|That makes] ") + final + "."
    if style == 2:
        openers = ["First find", *("Next comes" for _ in story.steps[1:-1]), "Finally work out"] if len(story.steps) > 1 else ["Find"]
        parts = [f"{opener} the {what}: {sum_} = {value}." for opener, (what, sum_, value) in zip(openers, story.steps, strict=True)]
        return " ".join(parts) + f" The result is {final}."
    return "\n".join(f"{sum_} = {value}  ({what})" for what, sum_, value in story.steps) + f"\n#### {final}"


def _basket(rng: random.Random, slots: Slots) -> Story:
    thing = rng.choice(_THINGS)
    value = start = rng.randrange(24, 95)
    text = say(
        rng,
        "{a} [starts the week with|has|keeps|begins with] {n} {thing} [in a box|on a shelf|in a basket|in the attic|at home].",
        {**slots, "n": start, "thing": thing},
    )
    steps = []
    for _ in range(rng.randrange(2, 4)):
        change = rng.randrange(3, 20)
        each, packs = rng.randrange(2, 8), rng.randrange(2, 6)
        event = rng.randrange(4)
        if event == 0:
            text += say(rng, " [Later|On Tuesday|After lunch] {b} [brings|sends|hands over] {n} more.", {**slots, "n": change})
            steps.append((f"number after {slots['b']}'s present", f"{value} + {change}", value := value + change))
        elif event == 1 and value > change:
            text += say(rng, " {n} of them [get lost|turn out to be broken|are given to {c}|go to a neighbour].", {**slots, "n": change})
            steps.append(("number that remains", f"{value} - {change}", value := value - change))
        elif event == 2:
            text += say(rng, " At the [market|fair|shop] {a} [buys|trades an old coat for|wins] {p} [bags|packs] of {n}.", {**slots, "n": each, "p": packs})
            steps.append((f"number of new {thing}", f"{packs} x {each}", packs * each))
            steps.append(("new total", f"{value} + {packs * each}", value := value + packs * each))
        elif value % 2 == 0:
            text += say(rng, " Then {a} [shares half with|gives every second one to] {c}.", slots)
            steps.append(("half that stays", f"{value} / 2", value := value // 2))
    if not steps:
        return _basket(rng, slots)
    return Story(text, say(rng, "How many {thing} [does {a} have now|are left with {a}|are there in the end]?", {**slots, "thing": thing}), tuple(steps), thing)


def _shopping(rng: random.Random, slots: Slots) -> Story:
    first, second = rng.sample(
        ("notebooks", "candles", "tickets", "jars of honey", "paint brushes", "loaves of bread", "mugs", "garden gloves", "cinema seats", "light bulbs"), 2
    )
    n, m, p, q = rng.randrange(2, 9), rng.randrange(2, 7), rng.randrange(2, 13), rng.randrange(3, 15)
    total = n * p + m * q
    note = next(size for size in (50, 100, 200, 500) if size > total)
    text = say(
        rng,
        "[In the village shop|At a stall in {place}|While running errands|Before the party], {a} [picks "
        "up|chooses|orders] {n} {first} at {p} [dollars|euros|coins] [apiece|each] "
        "and {m} {second} [for|at] {q} [apiece|each]. [The bill is paid with|{a} hands the cashier] a {note} note.",
        {**slots, "n": n, "m": m, "p": p, "q": q, "first": first, "second": second, "note": note},
    )
    steps = (
        (f"price of the {first}", f"{n} x {p}", n * p),
        (f"price of the {second}", f"{m} x {q}", m * q),
        ("bill", f"{n * p} + {m * q}", total),
        ("change", f"{note} - {total}", note - total),
    )
    return Story(text, say(rng, "[How much change comes back|What does {a} get back|How much money is returned]?", slots), steps, "in change")


def _journey(rng: random.Random, slots: Slots) -> Story:
    vehicle = rng.choice(("A coach", "The night train", "A cyclist", "A ferry", "A delivery van", "The mail plane", "A river barge"))
    v, w, h, k = rng.randrange(12, 90), rng.randrange(10, 80), rng.randrange(2, 6), rng.randrange(1, 5)
    extra = rng.randrange(15, 120)
    gone = v * h + w * k
    text = say(
        rng,
        "{vehicle} [leaves|sets out from] {place} [at dawn|before breakfast|at noon] and [covers|goes] {v} kilometres [an hour|every hour] for {h} hours. "
        "[Because of fog|After a rest|On the hilly part] it [continues|moves] at {w} kilometres an hour "
        "for another {k} hours. The whole [route|trip] is {all} kilometres [long|].",
        {**slots, "vehicle": vehicle, "v": v, "h": h, "w": w, "k": k, "all": gone + extra},
    )
    steps = (
        ("first part", f"{v} x {h}", v * h),
        ("second part", f"{w} x {k}", w * k),
        ("distance so far", f"{v * h} + {w * k}", gone),
        ("distance left", f"{gone + extra} - {gone}", extra),
    )
    return Story(text.replace(" .", "."), say(rng, "[How far is it still to go|How many kilometres remain|What distance is left]?"), steps, "kilometres")


def _wages(rng: random.Random, slots: Slots) -> Story:
    job = rng.choice(("mows lawns", "tutors pupils", "washes windows", "walks dogs", "repairs bicycles", "waits tables", "stacks crates", "picks grapes"))
    rate, days, hours, cost = rng.randrange(8, 25), rng.randrange(3, 7), rng.randrange(2, 9), rng.randrange(6, 60)
    earned = rate * hours * days
    text = say(
        rng,
        "[During the holidays|Each spring|To pay for a guitar|For a school trip], {a} {job} [and "
        "earns|for] {rate} dollars an hour, {hours} hours a day on {days} days. "
        "[Tools and bus fares cost|Meals take up|{b} borrows] {cost} dollars [of it|from that].",
        {**slots, "job": job, "rate": rate, "hours": hours, "days": days, "cost": cost},
    )
    steps = (
        ("number of hours", f"{hours} x {days}", hours * days),
        ("pay", f"{hours * days} x {rate}", earned),
        ("money that is kept", f"{earned} - {cost}", earned - cost),
    )
    return Story(text, say(rng, "[How many dollars remain|What is left of the pay|How much can {a} put aside]?", slots), steps, "dollars")


def _sharing(rng: random.Random, slots: Slots) -> Story:
    thing, box = rng.choice(
        (
            ("cookies", "tins"),
            ("eggs", "cartons"),
            ("pencils", "cups"),
            ("chairs", "rows"),
            ("roses", "vases"),
            ("books", "shelves"),
            ("bottles", "crates"),
            ("pupils", "teams"),
        )
    )
    per, boxes, extra = rng.randrange(4, 16), rng.randrange(3, 14), rng.randrange(4, 30)
    total = per * boxes + extra
    text = say(
        rng,
        "[There are|The hall in {place} holds|{a} counts|A club owns] {total} {thing}. {extra} "
        "of them are [set aside for {b}|not needed|damaged and thrown out], "
        "and the others are [spread evenly over|divided equally among|put in equal numbers into] {boxes} {box}.",
        {**slots, "total": total, "extra": extra, "thing": thing, "box": box, "boxes": boxes},
    )
    steps = ((f"number of {thing} to divide", f"{total} - {extra}", total - extra), ("share of each", f"{total - extra} / {boxes}", per))
    return Story(text, say(rng, "How many {thing} [come to each of the {box}|are in one of the {box}]?", {"thing": thing, "box": box}), steps, thing)


def _fence(rng: random.Random, slots: Slots) -> Story:
    plot = rng.choice(("meadow", "vegetable patch", "playground", "orchard", "paddock", "dog run", "tennis court", "camp site"))
    length, width, price = rng.randrange(8, 40), rng.randrange(4, 25), rng.randrange(2, 15)
    text = say(
        rng,
        "{a} [wants to fence|is putting a fence around] a rectangular {plot}, {l} metres long and {w} metres wide. "
        "[A metre of wire costs {p} dollars, delivery included|Wire is sold at {p} dollars a metre|{b} offers the wire for {p} dollars per metre].",
        {**slots, "plot": plot, "l": length, "w": width, "p": price},
    )
    around = 2 * (length + width)
    steps = (
        ("length plus width", f"{length} + {width}", length + width),
        ("way around", f"2 x {length + width}", around),
        ("cost", f"{around} x {price}", around * price),
    )
    return Story(text, say(rng, "[What does the fence cost|How much will be paid for all the wire]?"), steps, "dollars")


def _tiles(rng: random.Random, slots: Slots) -> Story:
    room = rng.choice(("kitchen", "swimming pool", "courtyard", "rooftop terrace", "hallway", "bakery", "laundry", "winter garden"))
    length, width, per, boxed = rng.randrange(3, 16), rng.randrange(2, 12), rng.randrange(4, 17), rng.randrange(2, 9)
    text = say(
        rng,
        "[The floor of the {room} {where} measures|Builders are tiling the {room} {where}, which "
        "is|{a} renovates the {room} {where}, an area of] {l} by {w} metres. "
        "[Every square metre takes|For one square metre they need|A square metre is covered by] {p} "
        "tiles, [and {x} tiles are added for breakage|plus {x} spare tiles in all].",
        {**slots, "room": room, "where": say(rng, "[in {place}|of {b}'s house|on the ground floor]", slots), "l": length, "w": width, "p": per, "x": boxed},
    )
    area = length * width
    steps = (
        ("area", f"{length} x {width}", area),
        ("number of tiles on the floor", f"{area} x {per}", area * per),
        ("number with the spare ones", f"{area * per} + {boxed}", area * per + boxed),
    )
    return Story(text, say(rng, "How many tiles [are needed|must be ordered|does it take] [in all|altogether]?"), steps, "tiles")


def _saving(rng: random.Random, slots: Slots) -> Story:
    goal = rng.choice(("telescope", "skateboard", "violin", "tent", "camera", "sewing machine", "kayak", "bicycle", "sound system"))
    weekly, weeks, had = rng.randrange(5, 30), rng.randrange(4, 20), rng.randrange(10, 90)
    price = had + weekly * weeks
    text = say(
        rng,
        "A {goal} [costs|is priced at] {price} dollars. {a} [already has|got from {b}|finds in a drawer] {had} "
        "dollars and [puts aside|adds|saves] {weekly} [dollars|more] [every week|each Friday|a week].",
        {**slots, "goal": goal, "price": price, "had": had, "weekly": weekly},
    )
    steps = (("sum still missing", f"{price} - {had}", price - had), ("number of weeks", f"{price - had} / {weekly}", weeks))
    return Story(
        text, say(rng, "[After how many weeks is there enough|For how many weeks must {a} save|How long does it take, in weeks]?", slots), steps, "weeks"
    )


def _ages(rng: random.Random, slots: Slots) -> Story:
    young, times, years = rng.randrange(9, 16), rng.randrange(3, 6), rng.randrange(2, 12)
    relation = rng.choice(("aunt", "coach", "uncle", "teacher", "neighbour", "godmother", "mother"))
    old = young * times
    text = say(
        rng,
        "{a} is {young} [years old|]. {a}'s {relation} {b} is {times} times as old[| today], and {c} is {years} years younger than {b}.",
        {**slots, "young": young, "relation": relation, "times": times, "years": years},
    )
    together = young + old + old - years
    steps = (
        (f"age of {slots['b']}", f"{young} x {times}", old),
        (f"age of {slots['c']}", f"{old} - {years}", old - years),
        ("sum of the ages", f"{young} + {old} + {old - years}", together),
    )
    return Story(
        text.replace(" .", "."), say(rng, "[How old are the three together|What do their ages add up to|What is the sum of all three ages]?"), steps, "years"
    )


def _percent(rng: random.Random, slots: Slots) -> Story:
    group, one, two = rng.choice(_GROUPS)
    total, share, part = rng.randrange(4, 40) * 20, rng.choice((10, 20, 25, 40, 50)), rng.choice((2, 4, 5))
    first = total * share // 100
    rest = total - first
    values: Slots = {"total": total, "group": group, "share": share, "one": one, "two": two, "part": part}
    text = say(
        rng,
        "[{place}'s yearbook counts|There are|A survey lists|{a} writes about] {total} {group}, and {share} [percent|per cent] of them are {one}.",
        slots | values,
    )
    steps = ((f"number of {one}", f"{total} x {share} / 100", first), ("rest", f"{total} - {first}", rest))
    if rest % part:
        return Story(text, say(rng, "How many are [not {one}|something else than {one}]?", values), steps, f"that are not {one}")
    text += say(rng, " [Of the others,|Among the rest,] [a share of 1/{part}|one in every {part}] [counts as|is put down as] {two}.", values)
    return Story(text, say(rng, "How many are {two}?", values), (*steps, (f"number of {two}", f"{rest} / {part}", rest // part)), two)


def _recipe(rng: random.Random, slots: Slots) -> Story:
    dish, stuff, unit = rng.choice(
        (
            ("pancakes", "flour", "grams"),
            ("lemonade", "sugar", "spoons"),
            ("risotto", "rice", "grams"),
            ("pizza dough", "water", "millilitres"),
            ("fruit punch", "juice", "cups"),
            ("soup", "lentils", "grams"),
        )
    )
    serves, factor, amount, stock = rng.randrange(2, 7), rng.randrange(2, 6), rng.randrange(3, 60) * 5, rng.randrange(1, 20) * 5
    text = say(
        rng,
        "A recipe for {dish} [feeds|is meant for] {serves} people and [calls for|uses] {amount} "
        "{unit} of {stuff}. {a} [cooks|invites friends and cooks] for {guests} [people|guests] and "
        "[has only|finds] {stock} {unit} [in the cupboard|at home].",
        {**slots, "dish": dish, "serves": serves, "guests": serves * factor, "amount": amount, "unit": unit, "stuff": stuff, "stock": stock},
    )
    need = amount * factor
    if need <= stock:
        return _recipe(rng, slots)
    steps = (
        ("factor", f"{serves * factor} / {serves}", factor),
        ("amount needed", f"{amount} x {factor}", need),
        ("amount to buy", f"{need} - {stock}", need - stock),
    )
    return Story(
        text,
        say(rng, "[How much more {stuff} is needed|How many {unit} of {stuff} must be bought]?", {"stuff": stuff, "unit": unit}),
        steps,
        f"{unit} of {stuff}",
    )


def _clock(rng: random.Random, slots: Slots) -> Story:
    tasks = rng.sample(
        (
            "sweeps the floor",
            "waters the plants",
            "practises the piano",
            "peels potatoes",
            "answers letters",
            "folds laundry",
            "reads a chapter",
            "feeds the hens",
            "paints a chair",
        ),
        3,
    )
    minutes = [rng.randrange(5, 55) for _ in tasks]
    free = sum(minutes) + rng.randrange(10, 80)
    text = say(
        rng,
        "{a} has {free} minutes [before the bus goes|until dinner|before {b} arrives]. {a} {x} for {i} "
        "minutes, {y} for {j} minutes and then {z}, which [takes|lasts] {k}[ minutes|].",
        {**slots, "free": free, "x": tasks[0], "y": tasks[1], "z": tasks[2], "i": minutes[0], "j": minutes[1], "k": minutes[2]},
    )
    used = sum(minutes)
    steps = (("time used", " + ".join(map(str, minutes)), used), ("time left", f"{free} - {used}", free - used))
    return Story(text, say(rng, "How many minutes [are left|remain|does {a} still have]?", slots), steps, "minutes")


def _harvest(rng: random.Random, slots: Slots) -> Story:
    crop = rng.choice(("potatoes", "grapes", "olives", "cherries", "pumpkins", "hops", "walnuts", "carrots"))
    rows, plants, yield_, truck = rng.randrange(3, 15), rng.randrange(4, 20), rng.randrange(2, 9), rng.randrange(10, 60)
    total = rows * plants * yield_
    text = say(
        rng,
        "[On a farm near {place}|Behind the mill|On {b}'s land] there are {rows} rows of {plants} "
        "plants, and [each plant gives|every plant yields] {y} kilos of {crop}. [Birds eat|Frost "
        "spoils|The family keeps] {loss} kilos; the rest is sold.",
        {**slots, "rows": rows, "plants": plants, "y": yield_, "crop": crop, "loss": truck},
    )
    if total <= truck:
        return _harvest(rng, slots)
    steps = (
        ("number of plants", f"{rows} x {plants}", rows * plants),
        ("harvest", f"{rows * plants} x {yield_}", total),
        ("amount sold", f"{total} - {truck}", total - truck),
    )
    return Story(text, say(rng, "How many kilos [of {crop} |][are sold|go to the market]?", {"crop": crop}), steps, f"kilos of {crop}")


_KINDS: tuple[Callable[[random.Random, Slots], Story], ...] = (
    _basket, _shopping, _journey, _wages, _sharing, _fence, _tiles, _saving, _ages, _percent, _recipe, _clock, _harvest,
)  # fmt: skip
