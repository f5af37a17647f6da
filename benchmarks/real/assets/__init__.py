"""The project's instances: public instruction pools, and the tasks of arXiv 2503.01807."""
