"""A run in words: its name, its note on the run page, and what the terminal shows when it ends."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.config import Config, Linear, groups

if TYPE_CHECKING:
    from experiments.report import Results
    from experiments.tracking import Run

SAME_RESULT = ("tracking.", "report.", "data.path", "hydra")
SHOWN = {
    "test_accuracy": "{:.2%}",
    "test_error_percent": "{:.2f} %",
    "test_mean_absolute_error": "{:.4f}",
    "test_loss": "{:.4f}",
    "learned_weight": "{:.4f}",
    "learned_bias": "{:.4f}",
    "best_val_accuracy": "{:.2%}",
    "best_epoch": "{:.0f}",
    "train_seconds": "{:.1f} s",
}


def name(config: Config, overrides: Sequence[str]) -> str:
    """A run's name: what differs from the defaults, first of all; model and data where nothing does."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key.startswith(SAME_RESULT):
            continue
        parts.append(value if key in groups() else f"{key.rsplit('.', 1)[-1]}={value}")
    return " ".join(parts) or f"{config.model.name} {config.data.name}"


def command(overrides: Sequence[str]) -> str:
    """The command that repeats the run, quoted for a shell."""
    import shlex

    return shlex.join(["python", "run.py", *overrides])


def note(results: "Results", metrics: Mapping[str, float], overrides: Sequence[str], run_id: str) -> str:
    """The run page's description, in Markdown: what was trained on what, the result, and the commands to go on with."""
    config, dataset = results.config, results.dataset
    size = f"{results.model.count_params():,} weights"
    rows = [f"| {key} | {form.format(metrics[key])} |" for key, form in SHOWN.items() if key in metrics]
    lines = [
        f"**{config.model.name}** ({size}) trained on **{dataset.name}** ({len(dataset.train.targets):,} examples,"
        f" {len(dataset.validation.targets):,} held out) with {config.optimizer.name},"
        f" learning rate {config.optimizer.learning_rate:g}, batch size {config.training.batch_size},"
        f" {config.training.epochs} epochs, seed {config.seed}.",
        "",
        "| on the test set | |",
        "|---|---|",
        *rows,
        "",
        f"Differs from the defaults: {', '.join(f'`{o}`' for o in overrides) or 'nothing'}.",
        *_worst_classes(results),
        *_about_the_neuron(config),
        "",
        "```",
        f"{command(overrides)}  # again",
        f"python scripts/compare.py {run_id} OTHER_RUN_ID",
        "```",
    ]
    return "\n".join(lines)


def _worst_classes(results: "Results") -> list[str]:
    from experiments.report import tables

    per_class = tables(results).get("per_class")
    if per_class is None:
        return []
    rows = zip(per_class["error_percent"], per_class["class"], per_class["errors"], per_class["examples"], strict=True)
    worst = sorted(rows, reverse=True)[:3]
    said = "; ".join(f"{label}: {errors} of {examples} ({rate:.2f} %)" for rate, label, errors, examples in worst)
    return ["", f"Most errors in: {said}."]


def _about_the_neuron(config: Config) -> list[str]:
    if not (config.model.name == "neuron" and isinstance(config.data, Linear)):
        return []
    return [
        "",
        f"The points lie around y = {config.data.slope:g} x, yet the learned weight is another number, for two reasons:"
        " the optimizer has not converged after so few epochs, and with an activation such as tanh the neuron bends the"
        " line, so that the weight that fits best is not the slope (for slope 0.8 and tanh the optimum of the"
        " noise-free line is a weight of 0.977 and a bias of -0.036).",
    ]


def show(results: "Results", metrics: Mapping[str, float], run: "Run") -> None:
    """Print the table of results, where everything is, and the next commands."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, form in SHOWN.items():
        if key in metrics:
            table.add_row(key, form.format(metrics[key]))
    console.print()
    console.print(table)
    console.print(f"\nRun {run.name} ({run.run_id}) in {run.uri}")
    console.print("\nNext:")
    console.print("  make ui                                     look at it in the browser")
    console.print(f"  python scripts/compare.py {run.run_id}   compare: add other runs' ids")
