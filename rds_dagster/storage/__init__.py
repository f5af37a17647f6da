"""Where state lies and how it is written; the only room that knows paths inside a project's `.rds` folder.

layout.py      every path                         atomic.py   write, fsync, rename
manifest.py    what makes a table finished        locks.py    file locks that say who holds them
tables.py      Parquet tables behind manifests    vectors.py  embeddings in LanceDB
ids.py         example ids by the million         reorder.py  wide rows in another order, by way of the disk
memory.py      giving memory back between steps
warehouse.py   the DuckDB file that SQL models and people read; can be deleted, is rebuilt
"""
