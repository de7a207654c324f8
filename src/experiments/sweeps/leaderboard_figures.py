"""The leaderboard of a sweep as figures."""

from typing import TYPE_CHECKING

from experiments.comparison.views import axis_value, is_grid
from experiments.formatting import plural
from experiments.sweeps.leaderboard import Leaderboard
from experiments.sweeps.leaderboard_text import describe_setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reports.figures.style import Style


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
            drawn["03_heat_map"] = heat_map(metric, x_name, columns, y_name, rows, mean, board.mode, caption, style)
    if len(by_setting) >= 2:
        caption = f"{count}; orange: the best, darker: better"
        drawn["04_parallel_coordinates"] = parallel_coordinates(metric, by_setting, mean, board.mode, caption, style)
    return drawn


def _param_value(text: str | None) -> float | str | None:
    return None if text in (None, "None") else axis_value(text)
