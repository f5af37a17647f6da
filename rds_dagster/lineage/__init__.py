"""Where things come from.

explain.py  one example of a mixture: file, line, cleaning, query, rank, score
sql.py      a SQL model's dependencies and column lineage, read from its text     (pure; sqlglot)
models.py   a SQL model -> its table: assets <schema>/<name>
"""
