"""Runs in MLflow, which only this package imports: the store, a run being logged, and recorded runs read back.

`run` logs, `records`, `artifacts` and `recorded_config` read, `liveness` finds runs whose process is gone.
"""

__all__ = [
    "addresses",
    "artifacts",
    "deletion",
    "environment",
    "kept_state",
    "liveness",
    "model_registry",
    "outages",
    "recorded_config",
    "records",
    "run",
    "store",
    "system_metrics",
    "ui_pages",
]
