"""What the parent run of a sweep keeps: the leaderboard as tables, figures and note, and the view of its runs."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from experiments.comparison.comparison import Mode, metric_direction
from experiments.config.metrics import FINAL_PREFIXES
from experiments.reports.next_commands import run_command_line
from experiments.sweeps.leaderboard import SEED_PARAM, Leaderboard
from experiments.sweeps.leaderboard_figures import leaderboard_figures
from experiments.sweeps.leaderboard_text import sweep_note
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.run import TrackedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reports.figures.style import Style


def sweep_commands(board: Leaderboard | None, uri: str | None, parent_id: str, again: str) -> dict[str, str]:
    """Return what to do next with a sweep, by a word for each command, without passwords in the store's address.

    Args:
        uri: of the store, as the config has it: None for the default.
        again: the command that made the sweep.
    """
    option = f" --uri {shlex.quote(uri)}" if uri else ""
    found = {"browse": f"python scripts/ui.py --sweep {parent_id}{option}"}
    if board is not None:
        grouped = f" --group-by {SEED_PARAM}" if board.comparison.group_by else ""
        mode = f" --mode {board.mode}" if metric_direction(board.metric) != board.mode else ""
        asked = f"--sweep {parent_id}{grouped} --metric {board.metric}{mode}"
        found["compare"] = f"python scripts/compare.py {asked}{option}"
        _, overrides = read_recorded_config(resolve_tracking_uri(uri), board.best.run_id)
        found["run the best again"] = run_command_line(overrides)
    return {word: hide_credentials(line) for word, line in found.items()} | {"repeat the sweep": again}


def share_view(run: TrackedRun, varied: Mapping[str, Sequence[str]], metric: str, mode: Mode) -> None:
    """Make the view of the sweep's runs in the UI, before there are any.

    Args:
        run: the parent.
        varied: the values of each key that the sweep varies.
    """
    params = {key if "." in key or key == SEED_PARAM else f"{key}.name": values for key, values in varied.items()}
    run.share_sweep_view(list(params), _chartable(params), metric, mode)


def _chartable(values: Mapping[str, Sequence[str | None]]) -> list[str]:
    """The parameters that MLflow's charts can have as an axis: those without lists among their values."""
    return [name for name, found in values.items() if not any((value or "").startswith("[") for value in found)]


def publish_leaderboard(
    run: TrackedRun,
    board: Leaderboard | None,
    commands: Mapping[str, str],
    failures: Sequence[str] = (),
    style: "Style" = "light",
) -> None:
    """Log the results of a sweep to its open parent run: the leaderboard as table and CSV, the figures, the note, the
    best run's id, config and final metrics, and the view of its runs in the UI.

    Args:
        run: the parent.
        board: None if no run has finished with the objective.
        commands: what to do next, each with a word for it.
        failures: a line for each job that did not finish.
        style: of the figures.
    """
    drawn: dict[str, Figure] = {}
    if board is not None:
        best = board.best
        charted = _chartable({name: board.comparison.values(name) for name in board.varied})
        run.share_sweep_view(board.varied, charted, board.metric, board.mode)
        run.log_table(board.table, "tables/leaderboard.json")
        run.log_text(board.table.to_csv(index=False), "tables/leaderboard.csv")
        drawn = leaderboard_figures(board, style)
        log_figures(run, drawn)
        run.set_tags({"best_run": best.run_id})
        run.log_text(read_artifact_text(run.uri, best.run_id, "config/config.yaml"), "config/best.yaml")
        shown = {k: v for k, v in best.metrics.items() if k.startswith(FINAL_PREFIXES) or k == board.metric}
        run.replace_metrics(shown)
    note = sweep_note(board, run.experiment_id, run.run_id, commands, failures, list(drawn))
    run.set_tags({"mlflow.note.content": note})


def log_figures(run: TrackedRun, figures: "Mapping[str, Figure]") -> None:
    """Log figures, by name, as images among the run's artifacts."""
    from experiments.reports.figures.style import save_figure

    with TemporaryDirectory() as folder:
        for name, figure in figures.items():
            save_figure(figure, Path(folder, f"{name}.png"))
        run.log_artifacts(Path(folder), "figures")
