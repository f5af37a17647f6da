"""The report is one page that loads nothing, shows the numbers it was given, and survives hostile texts."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from rds_dagster.exports.report import (
    CheckOutcome,
    Drop,
    LowPick,
    Pick,
    PoolFunnel,
    QuarantineRow,
    QueryPicks,
    ReportData,
    SourceShare,
    TaskFit,
    excerpt,
    make_histogram,
    render_report,
    shown,
    unfolded,
)

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x.png onerror=alert(1)>'
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, the text that is seen, and whether every element is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open, self.misnested = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if "style" not in self.open[-1:]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def a_pick(number, score, content="What is 2 + 2?"):
    return Pick(number, score, "stories", f"{number:032x}", (("user", content), ("assistant", "It is 4.")))


def report_data():
    scores = np.linspace(0.1, 0.9, 200)
    fit = TaskFit(
        "sums", 8, 30, 0.8125, 0.5017, 0.6543, make_histogram(scores, scores[-30:], scores[::7]),
        (QueryPicks("sums/query-1", (("user", "What is 1 + 1?"), ("assistant", "2")), (a_pick(1, 0.9876), a_pick(2, 0.9765))),), 0.4986,
    )  # fmt: skip
    other = replace(fit, task="poems", mean_selected=None, selected=0, lowest=None, scores=make_histogram(scores, scores[:0], scores[::7]), examples=())
    return ReportData(
        mixture="best_sums",
        method="RDS+",
        budget=40,
        settings=(("selector", "round_robin"),),
        pools=(
            PoolFunnel("stories", 1300, 1280, 1234, 28, (Drop("clean", "empty_answer", 20), Drop("unique", "exact_duplicate", 46)), "CC BY 4.0"),
            PoolFunnel("junk", 60, 50, 50, 2, (Drop("clean", "malformed_json", 10),)),
        ),
        sources=(SourceShare("stories", "stories", 1234, 28, 15), SourceShare("junk", "forum", 50, 2, 15)),
        tasks=(fit, other),
        lengths=make_histogram(np.array([10, 200, 3000, 40, 50]), np.array([200, 3000]), np.array([10]), log=True),
        lowest=(LowPick("sums", a_pick(77, 0.6543, "the weakest pick")),),
        quarantine=(QuarantineRow("clean", "malformed_json", "junk", "a/b.jsonl", 17, "Expecting value", "{broken"),),
        checks=(
            CheckOutcome("mixtures/best_sums", "exact size", True, "blocking", "30 of 30"),
            CheckOutcome("clean/junk", "few drops", False, "warning", "10 of 60"),
        ),
        fingerprints=(("mixtures/best_sums", "f" * 32),),
        versions=(("torch", "2.13.0"),),
        files=(("training file", ".rds/exports/best_sums/messages.jsonl"),),
        compared_with="by_chance",
    )


@pytest.fixture(scope="module")
def html():
    return render_report(report_data())


def test_the_page_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "source", "base", "form"}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                assert value.startswith("#"), (tag, name, value)
            assert "url(http" not in (value or "") and "url(//" not in (value or "")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert "default-src 'none'" in html


def test_every_element_is_closed_and_the_sections_come_in_order(html):
    page = Page(html)
    assert page.misnested == [] and page.open == []
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == ["What was picked, and does it fit the tasks?", "Where do the examples come from?", "What was thrown out, and why?", "Can I trust it?"]


def test_the_same_data_gives_the_same_page(html):
    assert render_report(report_data()) == html


def test_drawing_leaves_no_trace_in_the_settings_of_matplotlib(html):
    before = dict(matplotlib.rcParams)
    render_report(report_data())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "number",
    [
        "30 examples were picked by RDS+ for 2 tasks",
        "1,284 unique examples in 2 pools",
        "of a budget of 40",
        "0.812", "0.499", "0.502", "0.654",  # mean of the picked, of the compared, of the pool; the lowest
        "0.988", "0.977",  # the picks
        "93.3%", "96.1%", "6.7%", "\u00d70.97", "\u00d71.71",  # shares of the mixture and the pool, and their ratios
        "1,300 1,280 1,234 28",
        "Of 1,360 records, 1,284 were kept and 76 dropped. The sums agree in every pool.",
        "exact_duplicate 46",
        "junk/a/b.jsonl:17",
        "1 of 2", "1 warning",
        "rds explain best_sums 00000000000000000000000000000001",
        "CC BY 4.0", "none stated",
        "f" * 32, "2.13.0", ".rds/exports/best_sums/messages.jsonl",
        "the weakest pick",
    ],
)  # fmt: skip
def test_the_page_says(html, number):
    assert number in Page(html).text


def test_a_plot_for_each_thing_and_none_with_an_id_twice(html):
    page = Page(html)
    labels = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert len(labels) == 5
    assert {"Distribution of scores for sums", "Distribution of scores for poems"} < set(labels)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert used <= set(ids)


def test_hostile_texts_are_shown_and_never_run():
    data = report_data()
    pick = Pick(1, 0.5, HOSTILE, HOSTILE, (("user", HOSTILE * 9), (HOSTILE, HOSTILE)))
    hostile = replace(
        data,
        method=HOSTILE,
        compared_with=HOSTILE,
        settings=((HOSTILE, HOSTILE),),
        pools=(PoolFunnel(HOSTILE, 2, 1, 1, 1, (Drop(HOSTILE, HOSTILE, 1),), HOSTILE),),
        sources=(SourceShare(HOSTILE, HOSTILE + "$x^2$", 1, 1, 1),),
        tasks=(replace(data.tasks[0], task=HOSTILE, examples=(QueryPicks(HOSTILE, (("user", HOSTILE),), (pick,)),)),),
        lowest=(LowPick(HOSTILE, pick),),
        quarantine=(QuarantineRow(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE, HOSTILE),),
        checks=(CheckOutcome(HOSTILE, HOSTILE, False, "blocking", HOSTILE),),
        fingerprints=((HOSTILE, HOSTILE),),
        versions=((HOSTILE, HOSTILE),),
        files=((HOSTILE, HOSTILE),),
    )
    page = Page(render_report(hostile))
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert page.misnested == [] and page.open == []
    assert page.text.count('alert("x")') > 15


def test_controls_surrogates_and_direction_marks_are_spelt_out_so_that_the_page_is_utf8():
    data = report_data()
    wild = "bell\x07 half\ud800 turn\u202e nul\x00"
    page = render_report(replace(data, lowest=(LowPick("sums", a_pick(1, 0.1, wild)),), sources=(SourceShare("p", wild, 1, 1, 0),)))
    assert "bell\u27e8U+0007\u27e9 half\u27e8U+D800\u27e9 turn\u27e8U+202E\u27e9" in page
    assert not re.search("[\x00-\x08\x0e-\x1f\u202e\ud800-\udfff]", page)
    page.encode()


def test_a_long_text_is_shortened_and_the_whole_can_be_unfolded():
    data = report_data()
    long = a_pick(1, 0.7, "word " * 300 + "END")
    html = render_report(replace(data, lowest=(LowPick("sums", long),)))
    assert "show all" in html
    assert "END" in html
    endless = a_pick(1, 0.7, "word " * 30000 + "END")
    assert "END" not in render_report(replace(data, lowest=(LowPick("sums", endless),)))


def test_an_excerpt_shows_the_question_and_its_answer():
    turns = (("system", "Be kind."), ("user", "q" * 500), ("assistant", "a" * 500), ("user", "more"), ("assistant", "last"))
    assert [role for role, _ in excerpt(turns, 90)] == ["user", "assistant"]
    assert [len(content) for _, content in excerpt(turns, 90)] == [60, 30]
    assert excerpt((("user", "short"), ("assistant", "a" * 500)), 90) == (("user", "short"), ("assistant", "a" * 84 + "\u2026"))
    assert excerpt((("user", "q  q\n" * 50), ("assistant", "yes")), 90)[0][1].startswith("q q \u21b5 q q")
    assert excerpt((("assistant", "alone"),), 90) == (("assistant", "alone"),)


def test_unfolding_keeps_white_space_and_stops_at_the_limit():
    turns = (("user", "a\n  b"), ("assistant", "c" * 50), ("user", "never"))
    assert unfolded(turns, 20) == (("user", "a\n  b"), ("assistant", "c" * 14 + "\u2026"))


def test_shown_shortens_to_the_limit():
    assert shown("abcdef", 6) == "abcdef"
    assert shown("abcdefg", 6) == "abcde\u2026"


def test_a_failed_blocking_check_and_sums_that_disagree_come_first():
    data = report_data()
    bad = replace(
        data,
        pools=(replace(data.pools[0], read=1301), data.pools[1]),
        checks=(*data.checks, CheckOutcome("mixtures/best_sums", "no duplicates", False, "blocking", "2 duplicates")),
    )
    text = Page(render_report(bad)).text
    assert text.index("Look at this first.") < text.index("What was picked, and does it fit")
    assert "1 blocking check failed" in text
    assert "Pool stories does not add up: 1,301 read, but 1,234 kept and 66 dropped." in text
    assert "The sums agree" not in text
    assert text.index("no duplicates") < text.index("exact size")


def test_a_mixture_without_tasks_comparison_drops_and_checks_has_a_page_too():
    data = report_data()
    bare = replace(
        data,
        pools=(PoolFunnel("stories", 10, 10, 10, 3, ()),),
        sources=(SourceShare("stories", "stories", 10, 3),),
        tasks=(),
        lengths=make_histogram(np.array([5.0, 5.0]), np.array([5.0])),
        lowest=(),
        quarantine=(),
        checks=(),
        compared_with=None,
    )
    page = Page(render_report(bare))
    assert page.misnested == [] and page.open == []
    for words in ("made without tasks", "Nothing was dropped.", "No check has run", "rds explain best_sums EXAMPLE_ID", "0 of 0"):
        assert words in page.text
    assert "by_chance" not in page.text


def test_many_sources_are_shown_as_the_largest_and_the_rest():
    data = report_data()
    sources = tuple(SourceShare("stories", f"s{number:03}", 10 + number, number % 50, 1) for number in range(100))
    text = Page(render_report(replace(data, sources=sources, pools=(PoolFunnel("stories", 5950, 5950, 5950, 2450, ()),)))).text
    assert "71 more sources" in text
    assert "s099" in text and "s000" not in text


def test_a_histogram_counts_every_value_once():
    scores = np.array([0.0, 0.1, 0.1, 0.5, 1.0])
    made = make_histogram(scores, scores[3:], bins=4)
    assert made.edges == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert made.unique == (3, 0, 1, 1)
    assert made.selected == (0, 0, 1, 1)
    assert made.compared is None


def test_a_log_histogram_has_bins_of_equal_ratio_and_counts_every_value_once():
    lengths = np.array([0, 1, 10, 100, 1000, 123, 999])
    made = make_histogram(lengths, lengths[:1], lengths[1:2], bins=3, log=True)
    assert made.edges == pytest.approx((1, 10, 100, 1000))
    assert sum(made.unique) == 7 and sum(made.selected) == 1 and sum(made.compared) == 1


def test_a_histogram_of_nothing_is_refused():
    with pytest.raises(ValueError, match="histogram of no values"):
        make_histogram(np.empty(0), np.empty(0))
