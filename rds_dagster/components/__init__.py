"""The Dagster edge: component types whose YAML instances under assets/ are the project. Thin: read, call one stage, return metadata.

Pool       one source of conversations          raw, clean, provenance
Task       one target task                      queries, test_items
Corpus     all pools together                   unique, encoders, whitening, embeddings, scores
Mixture    one selected set                     mixtures, exports, reports
SqlModels  dbt_like_sql/<schema>/<name>.sql     <schema>/<name>
"""

from rds_dagster.components.corpus import Corpus
from rds_dagster.components.mixture import Mixture
from rds_dagster.components.pool import Pool
from rds_dagster.components.sql_models import SqlModels
from rds_dagster.components.task import Task

__all__ = ["Corpus", "Mixture", "Pool", "SqlModels", "Task"]
