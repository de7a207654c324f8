"""Recorded and published runs again: resumed, repeated and compared, or exported as one file.

`original_run` reads what a run recorded, `rerun` repeats it, `published` runs the published configs.
"""

__all__ = ["bundle", "original_run", "published", "rerun", "resume"]
