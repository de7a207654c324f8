"""Engines run the jobs of a sweep: all follow one protocol, so a sweep gives the same results with any of them.

An engine knows processes (or, one day, nodes of a cluster). What a job is, which jobs are done, retries, the parent
run and the search belong to the sweep, which reads outcomes from MLflow.
"""

__all__ = ["engine", "in_process", "pool"]
