"""Built-in demo data from our own grammars: six pools that differ in kind and form, three tasks, and a ledger of what is planted in them.

phrases.py       the phrase grammar, and the guard against near-duplicates that nobody planted
arithmetic.py, programs.py, reading.py, chat.py, translation.py, noise.py      one maker a pool (the word lists beside them)
formats.py       record shapes and containers
broken.py        the rows that are broken on purpose
plan.py          which pools and tasks, how much of what
generate.py      all of it into a folder
ledger.py        what was planted where
"""

from rds_dagster.demo.generate import refuse_other_project, write_demo, write_growth
from rds_dagster.demo.ledger import DemoLedger, GrowthLedger, Place, PlantedBroken, PlantedCopy, PlantedLeak, PoolWritten, TaskWritten, read_ledger

__all__ = [
    "DemoLedger",
    "GrowthLedger",
    "Place",
    "PlantedBroken",
    "PlantedCopy",
    "PlantedLeak",
    "PoolWritten",
    "TaskWritten",
    "read_ledger",
    "refuse_other_project",
    "write_demo",
    "write_growth",
]
