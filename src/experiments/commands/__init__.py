"""The user's commands: a module for each, which scripts/ and the installed command `experiments` call alike."""

__all__ = ["compare", "delete", "evaluate", "export", "predict", "promote", "reproduce", "tool", "ui"]
