"""The leaderboard of a sweep in words: the winner, the table on the terminal, and the note on the sweep's page."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.comparison.views import axis_value
from experiments.config.metrics import PREFERRED_METRICS
from experiments.formatting import certain_decimals, escape_markdown, format_with_spread, plural, printable
from experiments.sweeps.leaderboard import Leaderboard, format_p_value, leaderboard_verdict
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.run import TrackedRun
from experiments.tracking.ui_pages import charts_page, compare_page, run_page, sweep_table_page

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


TOP_ROWS = 10  # rows of the table in the note and on the terminal
# MLflow cuts a note after 8,000 characters.
LISTED_FAILURES = 10  # failures in the note
LONGEST_FAILURE = 200  # characters of one
MOST_COMPARED = 40  # runs in its link to the compare page
NO_FINISHED_RUN = "No run of this sweep has finished with its objective."


def describe_setting(values: Mapping[str, Any], varied: Sequence[str]) -> str:
    """`dropout=0.1 learning_rate=0.001`"""
    parts = [f"{short}={_param_cell(values[name])}" for name, short in _short_names(varied).items()]
    return " ".join(parts) or "the one setting"


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Return the last part of each parameter's name, or all of it if ambiguous: `dropout`, `optimizer.name`."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return {n: n if last.count(part) > 1 or part == "name" else part for n, part in zip(names, last, strict=True)}


def _param_cell(value: object) -> str:
    """Return a parameter's value for display: long numbers, as drawn in a search, get four digits."""
    if not isinstance(value, str):  # NaN: the run does not have the parameter
        return "-"
    number = axis_value(value)
    return f"{number:.4g}" if isinstance(number, float) and len(value) > 8 and "[" not in value else value


def leaderboard_headline(board: Leaderboard) -> str:
    """Describe the winner in a sentence: the setting, and its value with the confidence interval."""
    row = board.table.iloc[0]
    mean = row[f"{board.metric}_mean"]
    spread = "one seed" if row.n < 2 else f"95 % CI {_confidence_interval(row)}, {row.n} seeds"
    ties = int((board.table[f"{board.metric}_mean"] == mean).sum()) - 1
    tied = f", tied with {plural(ties, 'other setting')}" if ties else ""
    return f"Best: {describe_setting(row, board.varied)} with {board.metric} {mean:.5g} ({spread}){tied}"


def _confidence_interval(row: "pd.Series") -> str:
    """Return the confidence interval of the mean, with the decimals that its width justifies."""
    if math.isnan(row.ci95_low):
        return "unknown"
    half = (row.ci95_high - row.ci95_low) / 2
    if half <= 1e-12 * abs(row.ci95_low):
        return f"{row.ci95_low:.5g} to {row.ci95_high:.5g}"
    places = certain_decimals(half)
    return f"{row.ci95_low:.{places}f} to {row.ci95_high:.{places}f}"


def _leaderboard_rows(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the top of the leaderboard, as the note and the terminal show it."""
    frame = board.comparison.mean
    also = [name for name in PREFERRED_METRICS if name != board.metric and name in frame][:1]
    header = ["", *_short_names(board.varied).values(), "n", board.metric, "95 % CI", "difference", "p", *also]
    rows = [
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


def print_leaderboard(run: TrackedRun, board: Leaderboard | None, commands: Mapping[str, str]) -> None:
    """Print the top of the leaderboard, what it means, and the next commands, each with a word for it."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 100_000
    console.print()
    if board is None:
        console.print(NO_FINISHED_RUN)
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


def sweep_note(
    board: Leaderboard | None,
    experiment_id: str,
    parent_id: str,
    commands: Mapping[str, str],
    failures: Sequence[str],
    pictures: Sequence[str],
) -> str:
    """Return the description for the sweep's page, in Markdown; the result comes first, as MLflow folds the rest.

    Args:
        commands: what to do next, each with a word for it.
        failures: a line for each job that did not finish.
        pictures: names of the figures among the artifacts.
    """
    table = sweep_table_page(experiment_id, parent_id)
    links = {"all runs": table, "charts": charts_page(table)}
    blocks = [f"**{NO_FINISHED_RUN}**"]
    if board is not None:
        ids = [run.run_id for run in board.comparison.runs[:MOST_COMPARED]]
        links["runs side by side"] = compare_page(experiment_id, ids)
        links["the best run"] = run_page(experiment_id, board.best.run_id)
        setting, _, value = leaderboard_headline(board).partition(" with ")
        blocks = [f"**{escape_markdown(setting)}** with {value}.", leaderboard_verdict(board)]
        if board.metric.startswith("test_"):
            blocks.append("The objective is measured on the test set, so the best value of several is optimistic.")
    # Relative to the page, so that they work on every server, also behind a prefix.
    blocks.insert(1, " · ".join(f"[{word}]({address.lstrip('/')})" for word, address in links.items()))
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
    blocks.append("\n".join(["```", *(f"# {word}\n{line}" for word, line in commands.items()), "```"]))
    for file in (f"figures/{name}.png" for name in pictures):
        blocks.append(f"![{file}](get-artifact?path={file}&run_uuid={parent_id})")
    return "\n\n".join(blocks)
