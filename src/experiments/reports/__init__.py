"""What a run outputs: progress, metrics, figures, its note in MLflow, and the summary in the terminal."""

__all__ = ["differences", "figures", "next_commands", "notes", "progress", "report", "summary"]
