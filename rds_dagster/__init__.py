"""Pick the instruction data to fine-tune on, by RDS+ (arXiv 2503.01807), as a Dagster project and as a library.

    raw pools -> clean -> unique (dedup) -> embeddings (LanceDB) -> scores per task (DuckDB) -> mixtures -> exports, reports
                                     query sets of the target tasks -> query embeddings ----^

Each stage is a room of this package: pools, queries, cleaning, embeddings, scores, mixtures, exports, lineage. The core takes arrays
and tables and gives arrays and tables; storage knows the paths; components, definitions and runs are the Dagster edge; cli is `rds`.
The names below are the library's public face; they are imported when first used, since torch takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rds_dagster.embeddings.encoder import Encoder, load_encoder
    from rds_dagster.embeddings.settings import EncoderSettings
    from rds_dagster.embeddings.whitening import Whitening, fit_whitening
    from rds_dagster.errors import RdsError
    from rds_dagster.mixtures.random_choice import balanced, unbalanced
    from rds_dagster.mixtures.selectors import Picks, global_top, mean_max, round_robin_queries, round_robin_tasks
    from rds_dagster.pools.render import render
    from rds_dagster.schema import Message, example_id
    from rds_dagster.scores.similarity import score_block

__all__ = [
    "Encoder",
    "EncoderSettings",
    "Message",
    "Picks",
    "RdsError",
    "Whitening",
    "balanced",
    "example_id",
    "fit_whitening",
    "global_top",
    "load_encoder",
    "mean_max",
    "render",
    "round_robin_queries",
    "round_robin_tasks",
    "score_block",
    "unbalanced",
]

_HOMES = {
    "rds_dagster.embeddings.encoder": ("Encoder", "load_encoder"),
    "rds_dagster.embeddings.settings": ("EncoderSettings",),
    "rds_dagster.embeddings.whitening": ("Whitening", "fit_whitening"),
    "rds_dagster.errors": ("RdsError",),
    "rds_dagster.mixtures.random_choice": ("balanced", "unbalanced"),
    "rds_dagster.mixtures.selectors": ("Picks", "global_top", "mean_max", "round_robin_queries", "round_robin_tasks"),
    "rds_dagster.pools.render": ("render",),
    "rds_dagster.schema": ("Message", "example_id"),
    "rds_dagster.scores.similarity": ("score_block",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
