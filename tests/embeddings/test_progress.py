import io
import logging

from rds_dagster.embeddings.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_away_from_a_terminal_a_line_every_ten_seconds_tells_rates_and_time_left(caplog):
    caplog.set_level(logging.INFO, logger="rds_dagster.embeddings.progress")
    clock = Clock()
    with Progress("embed dolly", total=5000, stream=io.StringIO(), clock=clock) as progress:
        for _ in range(8):
            clock.now += 3.0
            progress.update(150, 4500)
    assert [record.message for record in caplog.records] == [
        "embed dolly: 600 of 5,000 examples, 50.0 examples/s, 1,500 tokens/s, 1 min 28 s left",  # 12 s: the first update after 10 s
        "embed dolly: 1,200 of 5,000 examples, 50.0 examples/s, 1,500 tokens/s, 1 min 16 s left",
        "embed dolly: 1,200 of 5,000 examples, 50.0 examples/s, 1,500 tokens/s, 1 min 16 s left",  # at the end
    ]


def test_without_a_total_no_time_left_is_made_up():
    clock = Clock()
    progress = Progress("embed", stream=io.StringIO(), clock=clock)
    clock.now += 2.0
    progress.update(10, 300)
    assert progress.line() == "embed: 10 examples, 5.0 examples/s, 150 tokens/s"


def test_long_waits_are_told_in_hours():
    clock = Clock()
    progress = Progress("embed", total=10_000, stream=io.StringIO(), clock=clock)
    clock.now += 10.0
    progress.update(10, 300)
    assert progress.line().endswith("2 h 46 min left")


def test_nothing_done_says_nothing(caplog):
    caplog.set_level(logging.INFO, logger="rds_dagster.embeddings.progress")
    with Progress("embed", total=0, stream=io.StringIO(), clock=Clock()):
        pass
    assert caplog.records == []


def test_on_a_terminal_there_is_a_bar_and_no_log_line(caplog):
    caplog.set_level(logging.INFO, logger="rds_dagster.embeddings.progress")
    clock, terminal = Clock(), Terminal()
    with Progress("embed dolly", total=20, stream=terminal, clock=clock) as progress:
        clock.now += 2.0
        progress.update(20, 600)
    assert "embed dolly: 100%" in terminal.getvalue()
    assert "300 tokens/s" in terminal.getvalue()
    assert caplog.records == []
