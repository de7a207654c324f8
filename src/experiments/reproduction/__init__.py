"""Run recorded and published experiments again: resume, repeat and compare them, or export them as one file.

`original_run` reads what a run recorded, `rerun` repeats it, `published` runs the published configs.
"""

__all__ = ["bundle", "original_run", "published", "rerun", "resume"]
