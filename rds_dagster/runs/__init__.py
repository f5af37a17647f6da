"""What `rds run | status | ui` do.

loading.py     a project folder -> its definitions and component instances
instance.py    the Dagster instance under .rds, and the project lock
looking.py     what changed outside: files of pools and tasks
fitting.py     `rds fit-whitening`
staleness.py   which assets are stale, and why
supply.py      budgets that the pools cannot meet
prune.py       `rds prune`
walk.py        materialize what is stale, frontier by frontier
orphans.py     runs whose process is gone
servers.py     the UI and the daemon
new_project.py `rds init`
"""
