"""What a step costs beside its core: calls are timed where they are looked up, each second once, and belong to the step in which they fell."""

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.figures import Figures
from benchmarks.overhead import CORE, Calls, Walked, _by_stage, report

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of two stages, one of which calls the other, and a generator."""
    module = ModuleType("made_up_stages")
    module.inner = lambda: time.sleep(0.02)
    module.outer = lambda: (time.sleep(0.02), module.inner(), "done")[-1]

    def several():
        for number in range(3):
            time.sleep(0.01)
            yield number

    module.several = several
    monkeypatch.setitem(sys.modules, "made_up_stages", module)
    return module


def test_a_call_within_a_call_is_not_counted_again(stages: ModuleType) -> None:
    calls = Calls()
    calls.watch("one", "made_up_stages.outer")
    calls.watch("two", "made_up_stages.inner")
    assert stages.outer() == "done"
    ((stage, began, ended),) = calls.made
    assert stage == "one" and 0.04 <= ended - began < 1
    stages.inner()
    assert [stage for stage, _, _ in calls.made] == ["one", "two"]


def test_the_time_of_a_generator_is_that_of_what_it_yields(stages: ModuleType) -> None:
    calls = Calls()
    calls.watch("many", "made_up_stages.several")
    assert list(stages.several()) == [0, 1, 2]
    ((_, began, ended),) = calls.made
    assert ended - began >= 0.03


def test_steps_belong_to_the_stage_whose_core_they_called() -> None:
    spans = [("a", 0.0, 2.0), ("b", 3.0, 4.0), ("c", 5.0, 9.0)]
    calls = [("raw", 0.5, 1.5), ("raw", 3.25, 3.75), ("scores", 5.0, 6.0), ("unique", 6.0, 6.5)]
    assert _by_stage(spans, calls) == {"raw": [2, 3.0, 1.5], "scores": [1, 4.0, 1.5]}
    with pytest.raises(RuntimeError, match="step d called none of the core functions; add what its stage calls to CORE"):
        _by_stage([("d", 10.0, 11.0)], calls)


def test_every_core_function_is_where_it_is_looked_up() -> None:
    for path in (path for paths in CORE.values() for path in paths):
        module, _, name = path.rpartition(".")
        owner, _, kind = module.rpartition(".")
        place = getattr(importlib.import_module(owner), kind) if kind[0].isupper() else importlib.import_module(module)
        assert callable(getattr(place, name)), path


def test_a_report_has_a_line_a_stage_and_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures("overhead")
    report(
        figures,
        [
            Walked({"imports": 1.0}, 10.0, {"clean": [2, 4.0, 3.0], "raw": [2, 2.0, 1.0]}),
            Walked({"imports": 3.0}, 12.0, {"raw": [2, 3.0, 2.0], "clean": [2, 4.0, 2.0]}),
        ],
    )
    said = capsys.readouterr().out.splitlines()
    assert "start-up: imports: 2.00 s (1.00 to 3.00)" in said
    assert said.index("| raw | 2 | 2.50 | 1.50 | 1.00 | 500 |") + 1 == said.index("| clean | 2 | 4.00 | 2.50 | 1.50 | 750 |")
    assert figures.ratios["the walk / the core functions alone"]["value"] == 11 / 4
