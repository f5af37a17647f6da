"""What every pool, corpus and mixture is held to: the default suites, and the checks that users add to them.

A user adds promises by YAML (``checks:`` beside the instance); one with the name of a default replaces it. Columns are known here, so a misspelt one is
refused when definitions load.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from rds_dagster.components.check_frames import (
    MIXTURE_FIGURES,
    SCORE_FIGURES,
    UNIQUE_FIGURES,
    VECTOR_FIGURES,
    mixture_frame,
    rows_frame,
    scores_frame,
    unique_frame,
    vectors_frame,
)
from rds_dagster.components.checks import Expectation, Severity, repeated_names, suite_checks
from rds_dagster.errors import SettingsError, unknown_choice
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.schema import CLEAN
from rds_dagster.scores.settings import METHOD

MANY_MESSAGES = 1000  # a conversation beyond this is odd, not wrong: warned of
NORM_ERROR = 0.01  # float16 keeps 11 bits, so a rounded unit vector is off by less than 0.0005; a forgotten normalisation by far more
ALIKE = 0.98  # mean cosine above which vectors hardly tell examples apart
COSINE = 1.001  # a cosine, and what rounding to float16 may add


class CorpusChecks(dg.Model, dg.Resolvable):
    """The checks that a corpus adds, by the stage whose figures (of every pool or task) they look at."""

    unique: list[Expectation] = Field(default_factory=list)
    embeddings: list[Expectation] = Field(default_factory=list)
    scores: list[Expectation] = Field(default_factory=list)


def with_extra(key: str, defaults: Sequence[Expectation], extra: Sequence[Expectation], columns: Sequence[str]) -> list[Expectation]:
    """The default checks, those of equal name replaced, then the other extra ones; raises SettingsError for unknown columns and repeated names."""
    if repeated := repeated_names(extra):
        raise SettingsError(f"checks of {key} name {', '.join(repeated)} more than once; name each once")
    for expectation in extra:
        for column in expectation.columns():
            if column not in columns:
                raise unknown_choice(f"check {expectation.name} of {key}: column", column, columns)
    named = {e.name: e for e in extra}
    kept = [named.pop(e.name, e) for e in defaults]
    return [*kept, *named.values()]


def clean_checks(pool: str, extra: Sequence[Expectation] = ()) -> list[Expectation]:
    """What ``clean/<pool>`` is held to; the columns are those of its index (schema CLEAN)."""
    defaults = [
        Expectation(name="has_rows", type="expect_table_row_count_to_be_between", kwargs={"min_value": 1}, description="At least one conversation is valid."),
        Expectation(name="ids_not_null", type="expect_column_values_to_not_be_null", kwargs={"column": "id"}, description="Every example has an id."),
        Expectation(name="ids_unique", type="expect_column_values_to_be_unique", kwargs={"column": "id"}, description="An example stands once in a pool."),
        _between("asks_and_answers", "num_messages", least=2, says="A conversation has a question and an answer."),
        _between("not_endless", "num_messages", least=1, most=MANY_MESSAGES, severity="warning", says=f"At most {MANY_MESSAGES:,} messages."),
        _between("not_empty", "num_chars", least=1, says="A conversation holds text."),
    ]
    return with_extra(f"clean/{pool}", defaults, extra, CLEAN.names)


def unique_checks(pool: str, extra: Sequence[Expectation] = ()) -> list[Expectation]:
    """What ``unique/<pool>`` is held to; the columns are UNIQUE_FIGURES."""
    defaults = [
        _zero("ids_unique", "duplicates", "An example is kept once in its pool."),
        _zero("ids_in_one_pool", "shared", "An example is kept by one pool alone."),
        _zero("ids_are_clean", "strangers", "Every kept id stands in the pool's clean table."),
        _zero("all_clean_accounted_for", "unaccounted", "Every clean id is kept, or lost to a keeper, or in quarantine."),
        _zero("kept_or_lost", "contradictory", "No id is both kept and lost."),
    ]
    return with_extra(f"unique/{pool}", defaults, extra, UNIQUE_FIGURES)


def embeddings_checks(pool: str, extra: Sequence[Expectation] = ()) -> list[Expectation]:
    """What ``embeddings/<pool>`` is held to; the columns are the figures of VectorProfile. Pools too small to tell pass the last two."""
    defaults = [
        _zero("all_embedded", "missing", "Every example that the pool keeps has its vector."),
        _zero("embedded_once", "duplicates", "No example has two vectors."),
        _zero("vectors_finite", "nonfinite", "No vector holds NaN or infinity."),
        _zero("right_dims", "wrong_dims", "Every vector is as long as the encoder's."),
        _between("norm_is_one", "max_norm_error", most=NORM_ERROR, says=f"The length of every stored float16 vector is 1, give or take {NORM_ERROR}."),
        _between("not_alike", "mean_pairwise_cosine", most=ALIKE, severity="warning", says=f"Sampled vectors have a mean cosine of at most {ALIKE}."),
        _between("not_collapsed", "effective_rank", least=2, says="Sampled vectors use at least two directions (effective rank, Roy and Vetterli 2007)."),
    ]
    return with_extra(f"embeddings/{pool}", defaults, extra, VECTOR_FIGURES)


def scores_checks(task: str, extra: Sequence[Expectation] = ()) -> list[Expectation]:
    """What ``scores/rds/<task>`` is held to; the columns are the figures of ScoreProfile."""
    defaults = [
        _zero("all_scored", "unscored", "Every kept example has a score."),
        _zero("scored_once", "duplicates", "No example has two scores."),
        _zero("only_kept_scored", "strangers", "No example is scored that no pool keeps."),
        _zero("scores_finite", "nonfinite", "No score is null, NaN or infinite."),
        _zero("queries_known", "unknown_queries", "Every best query stands in the task's query set."),
        _between("lowest_is_a_cosine", "lowest", least=-COSINE, most=COSINE, says=f"The lowest score lies within {-COSINE} and {COSINE}."),
        _between("highest_is_a_cosine", "highest", least=-COSINE, most=COSINE, says=f"The highest score lies within {-COSINE} and {COSINE}."),
        _between("not_constant", "spread", least=0, strict=True, says="The scores are not all the same."),
    ]
    return with_extra(f"scores/{METHOD}/{task}", defaults, extra, SCORE_FIGURES)


def mixture_checks(settings: MixtureSettings, extra: Sequence[Expectation] = ()) -> list[Expectation]:
    """What ``mixtures/<name>`` is held to; the columns are MIXTURE_FIGURES."""
    least = 1 if settings.allow_short else settings.budget
    size = f"{'At most' if settings.allow_short else 'Exactly'} the budget of {settings.budget:,} examples."
    defaults = [
        _between("size_is_the_budget", "rows", least=least, most=settings.budget, says=size),
        _zero("positions_without_gap", "misplaced", "Positions count from 1 in the order of picking."),
        _zero("picked_once", "duplicates", "No example is picked twice."),
        _zero("ids_are_kept", "strangers", "Every example is kept by the pool that it is said to come from."),
        _zero("pools_as_asked", "outside_pools", "Every example comes from a pool that was asked for."),
        _zero("sources_as_asked", "missing_sources", "Every required source gives an example."),
    ]
    return with_extra(f"mixtures/{settings.name}", defaults, extra, MIXTURE_FIGURES)


def clean_suite(pool: str, extra: Sequence[Expectation] = ()) -> dg.AssetChecksDefinition:
    """The asset checks of ``clean/<pool>``."""
    return suite_checks(dg.AssetKey(["clean", pool]), clean_checks(pool, extra), rows_frame(f"clean/{pool}", "index"))


def unique_suite(pool: str, extra: Sequence[Expectation] = ()) -> dg.AssetChecksDefinition:
    """The asset checks of ``unique/<pool>``."""
    return suite_checks(dg.AssetKey(["unique", pool]), unique_checks(pool, extra), unique_frame(pool))


def embeddings_suite(pool: str, extra: Sequence[Expectation] = ()) -> dg.AssetChecksDefinition:
    """The asset checks of ``embeddings/<pool>``."""
    return suite_checks(dg.AssetKey(["embeddings", pool]), embeddings_checks(pool, extra), vectors_frame(pool))


def scores_suite(task: str, extra: Sequence[Expectation] = ()) -> dg.AssetChecksDefinition:
    """The asset checks of ``scores/rds/<task>``."""
    return suite_checks(dg.AssetKey(["scores", METHOD, task]), scores_checks(task, extra), scores_frame(f"scores/{METHOD}/{task}"))


def mixture_suite(settings: MixtureSettings, extra: Sequence[Expectation] = ()) -> dg.AssetChecksDefinition:
    """The asset checks of ``mixtures/<name>``."""
    return suite_checks(dg.AssetKey(["mixtures", settings.name]), mixture_checks(settings, extra), mixture_frame(settings))


def _zero(name: str, column: str, says: str) -> Expectation:
    return Expectation(name=name, type="expect_column_values_to_be_between", kwargs={"column": column, "min_value": 0, "max_value": 0}, description=says)


def _between(
    name: str, column: str, *, says: str, least: float | None = None, most: float | None = None, strict: bool = False, severity: Severity = "critical"
) -> Expectation:
    bounds: dict[str, object] = {"min_value": least, "max_value": most, "strict_min": strict or None}
    kwargs: dict[str, object] = {"column": column, **{bound: value for bound, value in bounds.items() if value is not None}}
    return Expectation(name=name, type="expect_column_values_to_be_between", kwargs=kwargs, severity=severity, description=says)
