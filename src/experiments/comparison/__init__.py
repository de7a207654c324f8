"""Compare runs side by side, and apply the models of earlier runs to test sets and to the user's own pictures."""

__all__ = ["comparison", "evaluate", "export", "paired_test", "predict", "views"]
