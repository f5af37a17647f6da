"""Where things come from.

explain.py  one example of a mixture: file, line, cleaning, query, rank, score
diff.py     two versions of a mixture: what entered, what left, and why; diff_text.py as people read it
reasons.py  the rules of that why, over lists.py (how deep a version read its lists) and fates.py (where an example stands today)
sql.py      a SQL model's dependencies and column lineage, read from its text     (pure; sqlglot)
models.py   a SQL model -> its table: assets <schema>/<name>
"""
