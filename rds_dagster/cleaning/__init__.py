"""From files to valid, distinct conversations; every row that leaves is written to quarantine with its reason.

settings.py   what counts as valid
filters.py    one conversation -> keep or (drop, reason)
shards.py     one file -> one shard of valid conversations and its quarantine, cached by content     [per row]
places.py     where the rows of a pool's shards stand, as narrow columns, put in order of id
clean.py      the shards of a pool -> its index and provenance                asset clean/<pool>, provenance/<pool>
texts.py      the conversations behind ids
unique.py     all pools -> who keeps which example                            assets unique/*
"""
