"""Which examples to train on: selectors on arrays, and the versions that they fill.

settings.py       what one mixture asks for
selectors.py      round robin, mean-max, global top       (pure)
random_choice.py  balanced and uniform random             (pure)
candidates.py     the examples that a mixture may pick, with their pools and sources
choose.py         settings and stored scores -> picks
picked_texts.py   the texts of picks in the order of picking, in bounded memory
make_mixture.py   asset mixtures/<name>: picks -> a self-contained, immutable version folder
versions.py       which versions there are, which was current before which
"""
