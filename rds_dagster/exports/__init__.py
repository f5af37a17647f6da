"""A mixture as files that leave the project.

formats.py         one mixture version -> a training file                      (messages JSONL, Parquet)
export_mixture.py  asset exports/<name>: the files in their formats, manifest last
report.py          the page that people read                                   (pure; templates/report.html.j2)
report_mixture.py  asset reports/<name>: gathers what the page shows
"""
