"""The leaderboard of a sweep in words, and as the parent run records it.

The parent has it as tables, figures and a note, beside the view of the sweep's runs in the UI.
"""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.comparison.comparison import Mode, metric_direction
from experiments.comparison.views import axis_value, is_grid
from experiments.config.metrics import FINAL_PREFIXES, preferred_metrics
from experiments.formatting import (
    LONGEST_CELL,
    as_called,
    certain_decimals,
    escape_markdown,
    format_with_spread,
    markdown_code,
    plain_console,
    plural,
    printable,
    shorten_marked,
)
from experiments.reports.next_commands import run_command_line
from experiments.reports.report import leaving_out, tell_failures
from experiments.sweeps.ranking import SEED_PARAM, Leaderboard
from experiments.sweeps.significance import FOLDS_PARAM
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.run import TrackedRun
from experiments.tracking.ui_pages import charts_page, compare_page, run_page, sweep_table_page, sweep_view

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

    from experiments.reports.figures.style import Style


SIGNIFICANCE = 0.05  # below this p-value a difference counts as beyond noise
TOP_ROWS = 10  # rows of the table in the note and on the terminal
# MLflow cuts a note after 8,000 characters.
LISTED_FAILURES = 10  # failures in the note
LONGEST_FAILURE = 200  # characters of one
MOST_COMPARED = 40  # runs in its link to the compare page
NO_FINISHED_RUN = "No run of this sweep has finished with its objective."


def leaderboard_verdict(board: Leaderboard) -> str:
    """Say whether the best setting is better than the next beyond the noise between seeds."""
    table = board.table
    if len(table) == 1:
        return "There is only one setting, so there is nothing to compare it with."
    best, following = table.iloc[0], table.iloc[1]
    one, over = ("run", "seeds and folds") if board.is_cross_validated else ("seed", "seeds")
    advice = f"To find out, sweep over more seeds: {SEED_PARAM}=0,1,2,3,4"
    if best.n < 2 and following.n < 2:
        return f"One {one} each: noise unknown, so the order may be chance. {advice}"
    if best.n < 2 or following.n < 2:
        return f"The {'best' if best.n < 2 else 'next'} setting has only one {one}: noise unknown. {advice}"
    if following.difference == 0:
        return "The two best settings have the same mean: neither is better."
    p_values = table.p_corrected if board.is_cross_validated else table.p_value
    p = p_values.iloc[1]
    if not math.isfinite(p):
        return f"{over.capitalize()} make no difference to the two best settings, so there is no noise to measure."
    behind = f"by {abs(following.difference):.3g} on average"
    test = f"Welch's t-test over {best.n} and {following.n} seeds, p = {p:.2g}"
    if board.is_cross_validated:
        plain = f"{following.p_value:.2g} of the paired t-test, which takes the runs for independent"
        test = f"corrected resampled t-test over folds and seeds, p = {p:.2g}; {plain}"
    if p < SIGNIFICANCE:
        return f"Better than the next beyond noise: {behind} ({test})."
    alike = int((p_values >= SIGNIFICANCE).sum())
    also = f" {alike} settings are that close to the best." if alike > 1 else ""
    return f"Not better than the next beyond noise: ahead {behind} ({test}).{also} {advice}"


def describe_division(board: Leaderboard) -> list[str]:
    """Say how the examples of cross-validated runs were divided, in a sentence; nothing of other runs."""
    folds = sorted({int(run.params[FOLDS_PARAM]) for run in board.comparison.runs} if board.is_cross_validated else [])
    if not folds:
        return []
    parts = " or ".join(map(str, folds))
    return [
        f"Cross-validation: the training split is divided into {parts} parts with their share of every class, the same"
        " for every setting and seed; each run is validated on one of them and trained on the others."
    ]


def describe_setting(values: Mapping[str, Any], varied: Sequence[str]) -> str:
    """`dropout=0.1 learning_rate=0.001`"""
    named = zip(_short_names(varied), varied, strict=True)
    return " ".join(f"{short}={_param_cell(values[name])}" for short, name in named) or "the one setting"


def _short_names(names: Sequence[str]) -> list[str]:
    """Return the last part of each parameter's name, or all of it if ambiguous: `dropout`, `optimizer.name`."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return [n if last.count(part) > 1 or part == "name" else part for n, part in zip(names, last, strict=True)]


def _param_cell(value: object) -> str:
    """Return a parameter's value for display: long numbers, as drawn in a search, get four digits."""
    if not isinstance(value, str):  # NaN: the run does not have the parameter
        return "-"
    number = axis_value(value)
    return (
        f"{number:.4g}"
        if isinstance(number, float) and len(value) > 8 and "[" not in value
        else shorten_marked(value, LONGEST_CELL)
    )


def leaderboard_headline(board: Leaderboard) -> str:
    """Describe the winner in a sentence: the setting, and its value with the confidence interval."""
    row = board.table.iloc[0]
    mean = row[f"{board.metric}_mean"]
    runs = "runs" if board.is_cross_validated else "seeds"
    spread = f"one {runs[:-1]}" if row.n < 2 else f"95 % CI {_confidence_interval(row)}, {row.n} {runs}"
    ties = int((board.table[f"{board.metric}_mean"] == mean).sum()) - 1
    tied = f", tied with {plural(ties, 'other setting')}" if ties else ""
    return f"Best: {describe_setting(row, board.varied)} with {board.metric} {mean:.5g} ({spread}){tied}"


def _confidence_interval(row: "pd.Series") -> str:
    """Return the confidence interval of the mean, with the decimals that its width justifies."""
    if math.isnan(row.ci95_low):
        return "unknown"
    half = (row.ci95_high - row.ci95_low) / 2
    style = ".5g" if half <= 1e-12 * abs(row.ci95_low) else f".{certain_decimals(half)}f"
    return f"{row.ci95_low:{style}} to {row.ci95_high:{style}}"


def _leaderboard_rows(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the top of the leaderboard, as the note and the terminal show it."""
    frame = board.comparison.mean
    also = [name for name in preferred_metrics() if name != board.metric and name in frame][:1]
    tests = {"p_value": "p", **({"p_corrected": "p corrected"} if board.is_cross_validated else {})}
    header = ["", *_short_names(board.varied), "n", board.metric, "95 % CI", "difference", *tests.values(), *also]
    rows = [
        [
            str(position + 1),
            *(_param_cell(row[name]) for name in board.varied),
            str(row.n),
            format_with_spread(row[f"{board.metric}_mean"], row[f"{board.metric}_std"]),
            _confidence_interval(row),
            "best" if position == 0 else f"{row.difference:+.2g}",
            *("" if math.isnan(row[name]) else f"{row[name]:.2g}" for name in tests),
            *(f"{frame.at[position, name]:.4g}" for name in also),
        ]
        for position, row in board.table.head(TOP_ROWS).iterrows()
    ]
    return header, rows


def leaderboard_table(board: Leaderboard) -> "Table":
    """Return the top of the leaderboard for the terminal."""
    from rich.table import Column, Table
    from rich.text import Text

    header, rows = _leaderboard_rows(board)
    columns = (Column(Text(printable(name)), overflow="fold") for name in header)
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def print_leaderboard(
    run: TrackedRun, board: Leaderboard | None, commands: Mapping[str, str], remarks: Sequence[str] = ()
) -> None:
    """Print the top of the leaderboard, what it means, and the next commands, each with a word for it."""
    console = plain_console()
    if not console.is_terminal:
        console.width = 100_000
    console.print()
    if board is None:
        console.print(NO_FINISHED_RUN)
    else:
        console.print(leaderboard_table(board), soft_wrap=False)
        if len(board.table) > TOP_ROWS:
            console.print(f"The best {TOP_ROWS} of {len(board.table)} settings.")
        console.print(f"\n{printable(leaderboard_headline(board))}.\n{leaderboard_verdict(board)}")
    for remark in [*(describe_division(board) if board else []), *remarks]:
        console.print(f"\n{remark}")
    console.print(f"\nSweep {printable(run.name)} ({run.run_id}) in {hide_credentials(run.uri)}")
    if run.uri.startswith("http"):
        console.print(hide_credentials(run.uri).rstrip("/") + sweep_table_page(run.experiment_id, run.run_id))
    console.print("\nNext:")
    for word, line in commands.items():
        console.print(f"  {line}  # {word}")


def sweep_note(
    run: TrackedRun,
    board: Leaderboard | None,
    commands: Mapping[str, str],
    failures: Sequence[str],
    pictures: Sequence[str],
    remarks: Sequence[str] = (),
) -> str:
    """Return the description for the page of the parent `run`, in Markdown; the result comes first, as MLflow folds the
    rest. `failures` has a line for each job that did not finish."""
    table = sweep_table_page(run.experiment_id, run.run_id)
    links = {"all runs": table, "charts": charts_page(table)}
    blocks = [f"**{NO_FINISHED_RUN}**"]
    if board is not None:
        ids = [each.run_id for each in board.comparison.runs[:MOST_COMPARED]]
        links["runs side by side"] = compare_page(run.experiment_id, ids)
        links["the best run"] = run_page(run.experiment_id, board.best.run_id)
        setting, _, value = leaderboard_headline(board).partition(" with ")
        blocks = [f"**{escape_markdown(setting)}** with {value}.", leaderboard_verdict(board)]
        if board.metric.startswith("test_"):
            blocks.append("The objective is measured on the test set, so the best value of several is optimistic.")
        blocks += describe_division(board)
    # Relative to the page, so that they work on every server, also behind a prefix.
    blocks.insert(1, " · ".join(f"[{word}]({address.lstrip('/')})" for word, address in links.items()))
    blocks += remarks
    if failures:
        listed = [f"- {escape_markdown(failure[:LONGEST_FAILURE])}" for failure in failures[:LISTED_FAILURES]]
        listed += [f"- and {len(failures) - LISTED_FAILURES} more"] if len(failures) > LISTED_FAILURES else []
        blocks += [f"**{plural(len(failures), 'job')} did not finish:**", "\n".join(listed)]
    if board is not None:
        header, rows = _leaderboard_rows(board)
        # The UI sets cells close together; the spaces of Markdown do not count.
        cells = ([f"{escape_markdown(cell)}&emsp;" for cell in line] for line in rows)
        lines = [map(escape_markdown, header), ["---"] * len(header), *cells]
        blocks.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        if len(board.table) > TOP_ROWS:
            blocks.append(f"The best {TOP_ROWS} of {len(board.table)} settings; all: `tables/leaderboard.json`.")
        blocks.append(f"Best run: `{board.best.run_id}`; its config: `config/best.yaml`.")
    blocks.append(markdown_code("\n".join(f"# {word}\n{line}" for word, line in commands.items())))
    files = [f"figures/{name}.png" for name in pictures]
    return "\n\n".join([*blocks, *(f"![{file}](get-artifact?path={file}&run_uuid={run.run_id})" for file in files)])


def sweep_commands(board: Leaderboard | None, uri: str | None, parent_id: str, again: str) -> dict[str, str]:
    """Return what to do next with a sweep made by the command `again`, by a word for each, without passwords."""
    option = f" --uri {shlex.quote(uri)}" if uri else ""
    found = {"browse": f"python scripts/ui.py --sweep {parent_id}{option}"}
    if board is not None:
        grouped = f" --group-by {board.comparison.group_by}" if board.comparison.group_by else ""
        mode = f" --mode {board.mode}" if metric_direction(board.metric) != board.mode else ""
        asked = f"--sweep {parent_id}{grouped} --metric {board.metric}{mode}"
        found["compare"] = f"python scripts/compare.py {asked}{option}"
        _, overrides = read_recorded_config(resolve_tracking_uri(uri), board.best.run_id)
        found["run the best again"] = run_command_line(overrides)
    return {word: as_called(hide_credentials(line)) for word, line in found.items()} | {"repeat the sweep": again}


def share_view(run: TrackedRun, varied: Mapping[str, Sequence[str | None]], metric: str, mode: Mode) -> None:
    """Make the view of the sweep's runs in the UI, from the values of each key that the sweep varies."""
    params = {key if "." in key or key == SEED_PARAM else f"{key}.name": values for key, values in varied.items()}
    # MLflow's charts cannot show lists on an axis.
    chartable = [name for name, found in params.items() if not any((value or "").startswith("[") for value in found)]
    run.share_view(sweep_view(run.run_id, list(params), chartable, metric, mode))


def publish_leaderboard(
    run: TrackedRun,
    board: Leaderboard | None,
    commands: Mapping[str, str],
    failures: Sequence[str],
    style: "Style",
    remarks: Sequence[str] = (),
) -> None:
    """Log the results of a sweep to its open parent run: the leaderboard as table and CSV, the figures, the note, the
    best run's id, config and final metrics, and the view of its runs in the UI. `board` is None if no run has finished
    with the objective; `failures` has a line for each job that did not finish."""
    drawn: list[str] = []
    if board is not None:
        best = board.best
        share_view(run, {name: board.comparison.values(name) for name in board.varied}, board.metric, board.mode)
        run.log_table(board.table, "tables/leaderboard.json")
        run.log_text(board.table.to_csv(index=False), "tables/leaderboard.csv")
        drawn = log_figures(run, partial(leaderboard_figures, board, style))
        run.set_tags({"best_run": best.run_id})
        run.log_text(read_artifact_text(run.uri, best.run_id, "config/config.yaml"), "config/best.yaml")
        shown = {k: v for k, v in best.metrics.items() if k.startswith(FINAL_PREFIXES) or k == board.metric}
        run.log_metrics(shown)
    note = sweep_note(run, board, commands, failures, drawn, remarks)
    run.set_tags({"mlflow.note.content": note})


def log_figures(run: TrackedRun, draw: "Callable[[], Mapping[str, Figure]]") -> list[str]:
    """Log the figures that `draw` returns by name as images among the run's artifacts, and return the names; what
    cannot be drawn is told and left out."""
    from experiments.reports.figures.style import save_figure

    failures: dict[str, Exception] = {}
    names: list[str] = []
    with TemporaryDirectory() as folder:
        with leaving_out(failures, "figures"):
            for name, figure in draw().items():
                with leaving_out(failures, f"figures/{name}.png"):
                    save_figure(figure, Path(folder, f"{name}.png"))
                    names.append(name)
        run.log_artifacts(Path(folder), "figures")
    tell_failures(run, failures, "run the command of the sweep again")
    return names


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
        caption = f"{count}; {f'mean ± standard deviation over {board.over}' if several else 'one seed each'}"
        drawn["01_leaderboard"] = ranking(metric, labels, mean, std, caption, style)
    settings = {name: [_param_value(value) for value in board.comparison.values(name)] for name in board.varied}
    by_setting = {name: values for name, values in settings.items() if len(set(values)) > 1}
    if by_setting:
        over = "all other parameters" if len(by_setting) > 1 else board.over if several else ""
        points = f"; points: runs, line: their mean over {over}" if over else ", one for each value"
        by_run = {name: [_param_value(run.params.get(name)) for run in runs] for name in by_setting}
        values, caption = [run.metrics[metric] for run in runs], f"{plural(len(runs), 'run')}{points}"
        drawn["02_effects"] = parameter_effects(metric, by_run, values, board.mode, caption, style)
    if len(by_setting) == 2:
        (x_name, x), (y_name, y) = sorted(by_setting.items(), key=lambda item: -len(set(item[1])))
        columns, rows = (["none" if value is None else value for value in axis] for axis in (x, y))
        if is_grid(columns, rows):
            caption = f"{count}; {f'mean over {board.over}' if several else 'one seed each'}"
            axes = {x_name: columns, y_name: rows}
            drawn["03_heat_map"] = heat_map(metric, axes, mean, board.mode, caption, style)
    if len(by_setting) >= 2:
        caption = f"{count}; orange: the best, darker: better"
        drawn["04_parallel_coordinates"] = parallel_coordinates(metric, by_setting, mean, board.mode, caption, style)
    return drawn


def _param_value(text: str | None) -> float | str | None:
    return None if text in (None, "None") else axis_value(text)
