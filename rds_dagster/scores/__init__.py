"""How well each example fits each task; higher is better, always. Scores know no budgets.

settings.py     which methods, how deep the top lists
similarity.py   vectors x queries -> largest cosine per example, best examples per query    (pure)
filtering.py    the same of large blocks: of all pairs the few that matter, summed exactly
tile_kernels.py its inner loops, compiled
products.py     its quick products of all pairs, by numpy, oneDNN or a GPU, with their errors
shortlist.py    the rows that may stand in a query's top list
blocks.py       the stored vectors as fixed blocks, read one at a time
space.py        the same as they are scored: as stored, or whitened
score_tasks.py  assets scores/rds/<task>: one pass over the vectors serves all stale tasks
deepen.py       deeper top lists for a selector that ran out, from the stored vectors alone
"""
