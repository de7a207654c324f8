"""Sweeps and searches: the plan, the jobs and the engines that run them, and the leaderboard of their results.

`sweep` runs a sweep from start to end, `study` the trials of a search; `engines` run jobs and know nothing else.
"""

__all__ = ["engines", "promotion", "search", "sweep"]
