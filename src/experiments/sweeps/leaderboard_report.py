"""What the parent run of a sweep records: the leaderboard as tables, figures and note, and the view of its runs."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from experiments.comparison.comparison import Mode, metric_direction
from experiments.comparison.views import axis_value, is_grid
from experiments.config.metrics import FINAL_PREFIXES
from experiments.formatting import plural
from experiments.reports.next_commands import run_command_line
from experiments.sweeps.leaderboard import SEED_PARAM, Leaderboard
from experiments.sweeps.leaderboard_text import describe_setting, sweep_note
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
        uri: as the config has it: None for the default store.
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


def share_view(run: TrackedRun, varied: Mapping[str, Sequence[str | None]], metric: str, mode: Mode) -> None:
    """Make the view of the sweep's runs in the UI, from the values of each key that the sweep varies."""
    params = {key if "." in key or key == SEED_PARAM else f"{key}.name": values for key, values in varied.items()}
    # MLflow's charts cannot show lists on an axis.
    chartable = [name for name, found in params.items() if not any((value or "").startswith("[") for value in found)]
    run.share_sweep_view(list(params), chartable, metric, mode)


def publish_leaderboard(
    run: TrackedRun, board: Leaderboard | None, commands: Mapping[str, str], failures: Sequence[str], style: "Style"
) -> None:
    """Log the results of a sweep to its open parent run: the leaderboard as table and CSV, the figures, the note, the
    best run's id, config and final metrics, and the view of its runs in the UI.

    Args:
        board: None if no run has finished with the objective.
        commands: what to do next, each with a word for it.
        failures: a line for each job that did not finish.
    """
    drawn: dict[str, Figure] = {}
    if board is not None:
        best = board.best
        share_view(run, {name: board.comparison.values(name) for name in board.varied}, board.metric, board.mode)
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


def leaderboard_figures(board: Leaderboard, style: "Style" = "light") -> dict[str, "Figure"]:
    """Return the figures of a sweep by name, in the order in which they are best read."""
    from experiments.reports.figures.comparison import heat_map, ranking
    from experiments.reports.figures.sweep import parallel_coordinates, parameter_effects

    table, groups, runs, metric = board.table, board.comparison.groups, board.comparison.runs, board.metric
    count = f"{plural(len(groups), 'setting')}, {plural(len(runs), 'run')}"
    mean, std = table[f"{metric}_mean"].tolist(), table[f"{metric}_std"].fillna(0).tolist()
    several = bool(table.n.max() > 1)
    drawn = {}
    if len(groups) > 1:
        labels = [describe_setting(row, board.varied) for _, row in table.iterrows()]
        caption = f"{count}; {'mean ± standard deviation over seeds' if several else 'one seed each'}"
        drawn["01_leaderboard"] = ranking(metric, labels, mean, std, caption, style)
    by_setting = {name: [_param_value(value) for value in board.comparison.values(name)] for name in board.varied}
    by_setting = {name: values for name, values in by_setting.items() if len(set(values)) > 1}
    if by_setting:
        points = ", one for each value"
        if len(by_setting) > 1:
            points = "; points: runs, line: their mean over all other parameters"
        elif several:
            points = "; points: runs, line: their mean over seeds"
        by_run = {name: [_param_value(run.params.get(name)) for run in runs] for name in by_setting}
        values = [run.metrics[metric] for run in runs]
        caption = f"{plural(len(runs), 'run')}{points}"
        drawn["02_effects"] = parameter_effects(metric, by_run, values, board.mode, caption, style)
    if len(by_setting) == 2:
        (x_name, x), (y_name, y) = sorted(by_setting.items(), key=lambda item: -len(set(item[1])))
        columns, rows = (["none" if value is None else value for value in axis] for axis in (x, y))
        if is_grid(columns, rows):
            caption = f"{count}; {'mean over seeds' if several else 'one seed each'}"
            axes = {x_name: columns, y_name: rows}
            drawn["03_heat_map"] = heat_map(metric, axes, mean, board.mode, caption, style)
    if len(by_setting) >= 2:
        caption = f"{count}; orange: the best, darker: better"
        drawn["04_parallel_coordinates"] = parallel_coordinates(metric, by_setting, mean, board.mode, caption, style)
    return drawn


def _param_value(text: str | None) -> float | str | None:
    return None if text in (None, "None") else axis_value(text)
