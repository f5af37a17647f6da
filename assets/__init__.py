"""The project's instances: pools, tasks, corpus, mixtures and SQL models, one folder each. The ones here are the demo's."""
