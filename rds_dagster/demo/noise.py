"""Templated junk: yes/no opinion items, forum spam, gibberish, error pages, link lists. What a careless crawl brings along."""

from __future__ import annotations

import random
from collections.abc import Callable

from rds_dagster.demo.phrases import Conversation, exchange, say, sentence_case

_TRAITS = (
    "likes crowds", "wants to rule", "fears change", "trusts strangers", "enjoys risk", "believes in fate", "hates waiting", "values order",
    "would lie for a friend", "needs praise",
)  # fmt: skip
_ATTITUDE = (
    "[enjoy|dislike|would rather avoid|often think about|see no point in|am proud of|feel calm about|get nervous about|secretly love|would vote against]"
)
_MATTER = (
    "[large gatherings|being told what to do|leading other people|sudden changes of plan|old traditions|people who talk loudly|gambling|strict rules|"
    "being alone|telling white lies|new machines|long speeches|power over others|sharing my things|being watched|taking orders|praise from strangers|"
    "quiet mornings]"
)
_WARES = "[watches|diet tea|crypto signals|phone cases|miracle cream|followers|sneakers|loans|roof coating|vitamin gum|lottery numbers|ringtones]"
_SYLLABLES = ("zor", "ble", "qua", "mip", "tre", "vax", "nul", "ogg", "fli", "kre", "shu", "dwa", "pli", "ubb", "yex", "gno", "rta", "wim")
_KEYWORDS = (
    "cheap", "hotel", "near", "me", "best", "price", "review", "2019", "download", "free", "pdf", "lyrics", "used", "parts", "diy", "coupon", "login",
    "apk", "wallpaper", "hd", "meme", "sale", "tickets", "map", "jobs", "remote", "insurance", "quote", "celebrity", "diet", "horoscope", "gif",
    "torrent", "font", "template", "invoice",
)  # fmt: skip


def noise_conversation(rng: random.Random) -> tuple[str, Conversation]:
    """One piece of junk as (source, conversation); the source names its kind."""
    source, make = rng.choice(_KINDS)
    return source, make(rng)


def _opinion(rng: random.Random) -> Conversation:
    statement = say(rng, f"I {_ATTITUDE} {_MATTER}[| and {_MATTER}| because of {_MATTER}| more than {_MATTER}| when I am tired| at work| in every situation]")
    trait = rng.choice(_TRAITS)
    prompt = say(
        rng,
        '[Is the following statement something that a person who {t} would say?\n"{s}"|Statement: {s}. Would someone '
        "who {t} agree?|{s}. Agree or disagree, as a person who {t}.|Rate as somebody who {t}: {s}]",
        {"s": statement, "t": trait},
    )
    return exchange(prompt, rng.choice(("Yes", "No", "yes", "no", "(A)", "(B)", "Agree", "Disagree")))


def _spam(rng: random.Random) -> Conversation:
    lines = [
        "[BEST|CHEAP|Original|100% REAL|Hot new] {w} [ONLINE|FOR SALE|with free shipping|no questions asked]!!!",
        "[Click|Tap|Visit] [here|my profile|the link below] [before midnight|NOW|today only] >>> {c}",
        "My [cousin|uncle|dentist] made {n} $ in [one week|{k} days] with {w}",
        "[Great post, thanks for sharing|Nice blog|I totally agree admin], [also check|see also] my {w} page",
        "Coupon {c} gives -{k}0% on all {w}",
        "[Doctors|Bankers|Teachers] HATE this [simple|weird] trick with {w}",
        "Reply STOP or lose {n} bonus points",
    ]
    picked = rng.sample(lines, rng.randrange(2, 5))
    text = "\n".join(say(rng, line, {"w": say(rng, _WARES), "n": rng.randrange(200, 9900), "k": rng.randrange(1, 9), "c": _code(rng)}) for line in picked)
    replies = "[up|first|thx, works|+1|DM sent|bump|this user was banned (code {c})|interested, price for {n}?]"
    return exchange(text, say(rng, replies, {"c": _code(rng), "n": rng.randrange(2, 90)}))


def _gibberish(rng: random.Random) -> Conversation:
    def babble(words: int) -> str:
        return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randrange(1, 5))) for _ in range(words))

    return exchange(sentence_case(babble(rng.randrange(6, 25))) + rng.choice((".", "?", "!!", "...")), babble(rng.randrange(3, 20)))


def _keyboard(rng: random.Random) -> Conversation:
    keys = "asdfghjklqwertzuiopyxcvbnm;,1234567890"
    mash = " ".join("".join(rng.choices(keys, k=rng.randrange(3, 14))) for _ in range(rng.randrange(4, 12)))
    replies = "[I did not understand that.|Sorry?|???|Input too short (E{n}).|Please rephrase, ticket {c}.]"
    return exchange(mash, say(rng, replies, {"n": rng.randrange(100, 999), "c": _code(rng)}))


def _error_page(rng: random.Random) -> Conversation:
    text = say(
        rng,
        "[Error|HTTP|Exception] {n}: [page not found|session expired|access denied|out of memory|gateway "
        "timeout] at /[shop|forum|wiki|img|api]/{c}[.php|.aspx|.html|] [line {k}|(request {d})|]\n"
        "[Back to home|Accept all cookies|Log in to continue|Enable JavaScript] | [Imprint|Privacy|Contact] | [c 2009|c 2014|All rights reserved]",
        {"n": rng.choice((400, 403, 404, 408, 500, 502, 503)), "c": _code(rng), "d": _code(rng), "k": rng.randrange(1, 900)},
    )
    return exchange(text, say(rng, "[null|undefined|NaN|object Object|See log {c}.|Retry in {n} s]", {"c": _code(rng), "n": rng.randrange(5, 300)}))


def _keywords(rng: random.Random) -> Conversation:
    words = rng.sample(_KEYWORDS, rng.randrange(8, 20))
    return exchange(
        rng.choice((" ", ", ", " | ", " / ")).join(words),
        say(rng, "[{n} results|no results|did you mean: {w}?|tags: {w} {c}]", {"n": rng.randrange(3, 99999), "w": rng.choice(words), "c": _code(rng)}),
    )


def _code(rng: random.Random) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=rng.randrange(5, 9)))


_KINDS: tuple[tuple[str, Callable[[random.Random], Conversation]], ...] = (
    ("opinions", _opinion),
    ("opinions", _opinion),
    ("forum_spam", _spam),
    ("forum_spam", _spam),
    ("gibberish", _gibberish),
    ("keyboard", _keyboard),
    ("error_pages", _error_page),
    ("keyword_lists", _keywords),
)
