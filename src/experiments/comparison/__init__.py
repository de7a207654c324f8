"""Runs side by side, and models of earlier runs applied again: to their test sets, and to people's own pictures."""

__all__ = ["comparison", "evaluate", "pictures", "predict", "views"]
