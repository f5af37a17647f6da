"""Query sets of target tasks: a few examples of what the model should become good at, and the held-out items beside them.

    settings.py   one task: where its queries and test items lie
    read.py       the files -> queries and test items, in the file's order

Their vectors are made in `embeddings`, since a query is embedded as a pool example is.
"""
