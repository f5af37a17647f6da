"""The room of the pools: from files, wherever they lie, to conversations and the text that is embedded.

The flow inside: ``settings`` says what a pool is; ``files`` lists its files (through ``addresses``: local or any fsspec
address) and opens them (through ``compression``: gzip, zstd); ``readers`` turns one file into records, one at a time, bad rows
among them with their reason; ``shapes`` turns a record into messages, or says why it cannot; ``render`` turns messages into
the exact text that a model sees. Nothing is filtered, shortened or stripped before ``render``: contents pass verbatim, since
an example's id is made from them. What a broken row costs is that row; a broken file is an InputError.
"""
