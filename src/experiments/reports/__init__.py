"""What a run shows: progress, metrics, figures, its note in MLflow, and the summary in the terminal."""
