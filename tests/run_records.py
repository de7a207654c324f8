"""Run records made from literals, and a comparison of them as shown in a terminal."""

import io

from experiments.comparison.views import comparison_table
from experiments.tracking.records import RunRecord


def a_run(number, params=None, metrics=None, tags=None, status="FINISHED", name=None):
    return RunRecord(
        run_id=f"{number:032x}",
        name=name or f"run-{number}",
        status=status,
        start_time=number,
        end_time=number,
        params=params or {},
        metrics=metrics or {},
        tags=tags or {},
    )


def over_seeds(**accuracies):
    """Return runs with seeds 0, 1, ... for each dropout."""
    return [
        a_run(
            10 * i + seed, {"model.dropout": key[1:], "seed": str(seed), "model.name": "mlp"}, {"test_accuracy": value}
        )
        for i, (key, values) in enumerate(accuracies.items())
        for seed, value in enumerate(values)
    ]


def text_of(comparison, width=None):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width or 10_000)
    console.print(comparison_table(comparison, width)[0])
    return [line.rstrip() for line in console.file.getvalue().splitlines()]
