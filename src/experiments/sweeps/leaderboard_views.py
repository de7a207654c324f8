"""The leaderboard of a sweep as figures, table and note."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.comparison.comparison import Mode, metric_direction
from experiments.comparison.views import axis_value, is_grid
from experiments.config.metrics import FINAL_PREFIXES, PREFERRED_METRICS
from experiments.formatting import certain_decimals, escape_markdown, format_with_spread, plural, printable
from experiments.reports.next_commands import run_command_line
from experiments.sweeps.leaderboard import SEED_PARAM, Leaderboard, format_p_value, leaderboard_verdict
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.run import TrackedRun
from experiments.tracking.ui_pages import charts_page, compare_page, run_page, sweep_table_page

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

    from experiments.reports.figures.style import Style


TOP_ROWS = 10  # rows of the table in the note and on the terminal
# MLflow cuts a note after 8,000 characters.
LISTED_FAILURES = 10  # failures in the note
LONGEST_FAILURE = 200  # characters of one
MOST_COMPARED = 40  # runs in its link to the compare page


def leaderboard_figures(board: Leaderboard, style: "Style" = "light") -> dict[str, "Figure"]:
    """The figures of a sweep by name, in the order in which they are best read."""
    from experiments.reports.figures.comparison import heat_map, ranking
    from experiments.reports.figures.sweep import parallel_coordinates, parameter_effects

    table, groups = board.table, board.comparison.groups
    runs = board.comparison.runs
    count = f"{plural(len(groups), 'setting')}, {plural(len(runs), 'run')}"
    mean, std = table[f"{board.metric}_mean"].tolist(), table[f"{board.metric}_std"].fillna(0).tolist()
    several = bool(table.n.max() > 1)
    drawn = {}
    if len(groups) > 1:
        drawn["01_leaderboard"] = ranking(
            board.metric,
            [_setting_text(row, board.varied) for _, row in table.iterrows()],
            mean,
            std,
            f"{count}; {'mean ± standard deviation over seeds' if several else 'one seed each'}",
            style,
        )
    by_setting = {name: [_param_value(run.params.get(name)) for run, *_ in groups] for name in board.varied}
    by_setting = {name: values for name, values in by_setting.items() if len(set(values)) > 1}
    if by_setting:
        points = ", one for each value"
        if len(by_setting) > 1:
            points = "; points: runs, line: their mean, whatever the other parameters are"
        elif several:
            points = "; points: runs, line: their mean over seeds"
        drawn["02_effects"] = parameter_effects(
            board.metric,
            {name: [_param_value(run.params.get(name)) for run in runs] for name in by_setting},
            [run.metrics[board.metric] for run in runs],
            board.mode,
            f"{plural(len(runs), 'run')}{points}",
            style,
        )
    if len(by_setting) == 2:
        (x_name, x), (y_name, y) = sorted(by_setting.items(), key=lambda item: -len(set(item[1])))
        columns, rows = [_shown_param(value) for value in x], [_shown_param(value) for value in y]
        if is_grid(columns, rows):
            of = "mean over seeds" if several else "one seed each"
            drawn["03_heat_map"] = heat_map(
                board.metric, x_name, columns, y_name, rows, mean, board.mode, f"{count}; {of}", style
            )
    if len(by_setting) >= 2:
        drawn["04_parallel_coordinates"] = parallel_coordinates(
            board.metric, by_setting, mean, board.mode, f"{count}; orange: the best, darker: better", style
        )
    return drawn


def _param_value(text: str | None) -> float | str | None:
    return None if text in (None, "None") else axis_value(text)


def _shown_param(value: float | str | None) -> float | str:
    return "none" if value is None else value


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each parameter's name, or the whole where that is not enough: `dropout`, `optimizer.name`."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return {n: n if last.count(part) > 1 or part == "name" else part for n, part in zip(names, last, strict=True)}


def _setting_text(values: Mapping[str, Any], varied: Sequence[str]) -> str:
    """`dropout=0.1 learning_rate=0.001`"""
    return (
        " ".join(f"{short}={_param_cell(values[name])}" for name, short in _short_names(varied).items())
        or "the one setting"
    )


def _param_cell(value: object) -> str:
    """A parameter's value for people: a long number, such as a search draws, to four digits."""
    if not isinstance(value, str):  # NaN: pandas has no other word for what a run does not have
        return "-"
    number = axis_value(value)
    return f"{number:.4g}" if isinstance(number, float) and len(value) > 8 and "[" not in value else value


def leaderboard_table(board: Leaderboard) -> "Table":
    """The top of the leaderboard for the terminal."""
    from rich.table import Table
    from rich.text import Text

    header, rows = _leaderboard_rows(board)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in header:
        table.add_column(Text(printable(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _leaderboard_rows(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the top of the leaderboard, as the note and the terminal show it."""
    frame = board.comparison.mean
    also = [name for name in PREFERRED_METRICS if name != board.metric and name in frame][:1]
    header = ["", *_short_names(board.varied).values(), "n", board.metric, "95 % CI", "difference", "p", *also]
    rows = []
    for position, row in board.table.head(TOP_ROWS).iterrows():
        rows.append(
            [
                str(position + 1),
                *(_param_cell(row[name]) for name in board.varied),
                str(row.n),
                format_with_spread(row[f"{board.metric}_mean"], row[f"{board.metric}_std"]),
                _confidence_interval(row),
                "best" if position == 0 else f"{row.difference:+.2g}",
                "" if math.isnan(row.p_value) else format_p_value(row.p_value),
                *(f"{frame.at[position, name]:.4g}" for name in also),
            ]
        )
    return header, rows


def _confidence_interval(row: "pd.Series") -> str:
    """The confidence interval of the mean, to the decimals that it leaves sure."""
    if math.isnan(row.ci95_low):
        return "unknown"
    half = (row.ci95_high - row.ci95_low) / 2
    if half <= 1e-12 * abs(row.ci95_low):
        return f"{row.ci95_low:.5g} to {row.ci95_high:.5g}"
    places = certain_decimals(half)
    return f"{row.ci95_low:.{places}f} to {row.ci95_high:.{places}f}"


def leaderboard_headline(board: Leaderboard) -> str:
    """The winner in a sentence: what it is, and its value with the confidence interval."""
    row = board.table.iloc[0]
    mean = row[f"{board.metric}_mean"]
    spread = "one seed" if row.n < 2 else f"95 % CI {_confidence_interval(row)}, {row.n} seeds"
    ties = int((board.table[f"{board.metric}_mean"] == mean).sum()) - 1
    tied = f", and {ties} other setting{'s' * (ties > 1)} the same" if ties else ""
    return f"Best: {_setting_text(row, board.varied)} with {board.metric} {mean:.5g} ({spread}){tied}"


def sweep_note(
    board: Leaderboard | None,
    experiment_id: str,
    parent_id: str,
    commands: Mapping[str, str],
    failures: Sequence[str],
    pictures: Sequence[str],
) -> str:
    """The description on the sweep's page, in Markdown. MLflow shows the first five lines or so: the result is first.

    Args:
        commands: what to do next, a word for each.
        failures: the jobs that did not finish, a line for each.
        pictures: names of the figures among the artifacts.
    """
    table = sweep_table_page(experiment_id, parent_id)
    links = {"all runs": table, "charts": charts_page(table)}
    if board is not None:
        ids = [run.run_id for run in board.comparison.runs[:MOST_COMPARED]]
        links |= {
            "runs side by side": compare_page(experiment_id, ids),
            "the best run": run_page(experiment_id, board.best.run_id),
        }
    # Relative to the page, so that they hold on every server, also behind a prefix.
    linked = " · ".join(f"[{word}]({address.lstrip('/')})" for word, address in links.items())
    if board is None:
        blocks = ["**No run of this sweep has finished with its objective.**", linked]
    else:
        setting, _, value = leaderboard_headline(board).partition(" with ")
        blocks = [f"**{escape_markdown(setting)}** with {value}.", linked, leaderboard_verdict(board)]
        if board.metric.startswith("test_"):
            blocks.append("The objective is measured on the test set, so the best value of several is optimistic.")
    if failures:
        more = [f"- and {len(failures) - LISTED_FAILURES} more"] if len(failures) > LISTED_FAILURES else []
        blocks.append(f"**{plural(len(failures), 'job')} did not finish:**")
        blocks.append(
            "\n".join(
                [*(f"- {escape_markdown(failure[:LONGEST_FAILURE])}" for failure in failures[:LISTED_FAILURES]), *more]
            )
        )
    if board is not None:
        header, rows = _leaderboard_rows(board)
        # The UI sets cells close together; the spaces of Markdown do not count.
        cells = ([f"{escape_markdown(cell)}&emsp;" for cell in line] for line in rows)
        lines = [map(escape_markdown, header), ["---"] * len(header), *cells]
        blocks.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        settings = len(board.table)
        if settings > TOP_ROWS:
            blocks.append(f"The best {TOP_ROWS} of {settings} settings; all of them: `tables/leaderboard.json`.")
        blocks.append(f"Best run: `{board.best.run_id}`; its config: `config/best.yaml`.")
    listed = (line for word, command in commands.items() for line in (f"# {word}", command))
    blocks.append("\n".join(["```", *listed, "```"]))
    for name in pictures:
        file = f"figures/{name}.png"
        blocks.append(f"![{file}](get-artifact?path={file}&run_uuid={parent_id})")
    return "\n\n".join(blocks)


def sweep_commands(board: Leaderboard | None, uri: str | None, parent_id: str, again: str) -> dict[str, str]:
    """What to do with a sweep, a word for each command; passwords in the address of the store are left out.

    Args:
        uri: of the store, as the config has it: None for the one in force.
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
    return {word: hide_credentials(line) for word, line in found.items()} | {"enter the sweep again": again}


def share_view(run: TrackedRun, varied: Mapping[str, Sequence[str]], metric: str, mode: Mode) -> None:
    """Make the view of the sweep's runs in the UI before there are any.

    Args:
        run: the parent.
        varied: the keys that the sweep varies, as in `rank`, each with its values.
    """
    params = {key if "." in key or key == SEED_PARAM else f"{key}.name": values for key, values in varied.items()}
    charted = [name for name, values in params.items() if not any(value.startswith("[") for value in values)]
    run.share_sweep_view(list(params), charted, metric, mode)


def publish_leaderboard(
    run: TrackedRun,
    board: Leaderboard | None,
    commands: Mapping[str, str],
    failures: Sequence[str] = (),
    style: "Style" = "light",
) -> None:
    """Log to the open parent run what its sweep came to: the leaderboard as table and CSV, the figures, the note, the
    best run's id, config and final metrics, and the view of its runs in the UI.

    Args:
        run: the parent.
        board: None if no run has finished with the objective.
        commands: what to do next, a word for each.
        failures: the jobs that did not finish, a line for each.
        style: of the figures.
    """
    drawn: dict[str, Figure] = {}
    if board is not None:
        best = board.best
        run.share_sweep_view(board.varied, _charted_params(board), board.metric, board.mode)
        run.log_table(board.table, "tables/leaderboard.json")
        run.log_text(board.table.to_csv(index=False), "tables/leaderboard.csv")
        drawn = leaderboard_figures(board, style)
        _log_figures(run, drawn)
        run.set_tags({"best_run": best.run_id})
        run.log_text(read_artifact_text(run.uri, best.run_id, "config/config.yaml"), "config/best.yaml")
        run.replace_metrics(
            {k: v for k, v in best.metrics.items() if k.startswith(FINAL_PREFIXES) or k == board.metric}
        )
    text = sweep_note(board, run.experiment_id, run.run_id, commands, failures, list(drawn))
    run.set_tags({"mlflow.note.content": text})


def print_leaderboard(run: TrackedRun, board: Leaderboard | None, commands: Mapping[str, str]) -> None:
    """Print the top of the leaderboard, what it means, and the next commands."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 100_000
    console.print()
    if board is None:
        console.print("No run of this sweep has finished with its objective.")
    else:
        console.print(leaderboard_table(board), soft_wrap=False)
        if len(board.table) > TOP_ROWS:
            console.print(f"The best {TOP_ROWS} of {len(board.table)} settings.")
        console.print(f"\n{leaderboard_headline(board)}.\n{leaderboard_verdict(board)}")
    console.print(f"\nSweep {run.name} ({run.run_id}) in {hide_credentials(run.uri)}")
    if run.uri.startswith("http"):
        console.print(hide_credentials(run.uri).rstrip("/") + sweep_table_page(run.experiment_id, run.run_id))
    console.print("\nNext:")
    for word, line in commands.items():
        console.print(f"  {line}  # {word}")


def _log_figures(run: TrackedRun, drawn: Mapping[str, "Figure"]) -> None:
    from experiments.reports.figures.style import save_figure

    with TemporaryDirectory() as folder:
        for name, figure in drawn.items():
            save_figure(figure, Path(folder, f"{name}.png"))
        run.log_artifacts(Path(folder), "figures")


def _charted_params(board: Leaderboard) -> list[str]:
    """The parameters that MLflow's charts can have as an axis: those whose values are no lists."""
    runs = board.comparison.runs
    return [name for name in board.varied if not any((run.params.get(name) or "").startswith("[") for run in runs)]
