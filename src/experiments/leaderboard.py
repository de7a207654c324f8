"""What a sweep came to: its settings ranked over seeds, and whether the best is better than the next beyond noise."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments import compare, resume, summary, tracking, ui_pages
from experiments.compare import Comparison, Mode
from experiments.compare_views import axis_value, is_grid
from experiments.formatting import decimals, escaped, plain, plural, with_spread
from experiments.runs import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

    from experiments.figures import Style

SEED = "seed"
CONFIDENCE = 0.95
SIGNIFICANCE = 0.05  # below this p-value a difference counts as beyond noise
TOP = 10  # rows of the table in the note and on the terminal
# MLflow cuts a note after 8,000 characters.
LISTED = 10  # failures in the note
LONGEST = 200  # characters of one
COMPARED = 40  # runs in its link to the compare page
ALSO = (
    "test_accuracy",
    "best_val_accuracy",
    "test_loss",
    "test_mean_absolute_error",
)  # the first of them is shown beside the objective
FINAL = ("test_", "best_")  # the best run's metrics that stand in the parent's row of the runs table


@dataclass(frozen=True)
class Leaderboard:
    """The settings of a sweep, best first: the finished runs, grouped over seeds.

    Attributes:
        comparison: of the runs that have the objective; ranked by it.
        varied: the parameters that make a setting.
        metric: the objective.
    """

    comparison: Comparison
    varied: list[str]
    metric: str
    mode: Mode

    @property
    def best(self) -> RunRecord:
        """Of the best setting the run with the best value."""
        return (min if self.mode == "min" else max)(self.comparison.groups[0], key=lambda run: run.metrics[self.metric])

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row for each setting: what varies, `n` (seeds), mean and standard deviation of the objective (of the
        sample, n - 1), the 95 % confidence interval of the mean (Student's t; Student, Biometrika 6, 1908), the
        difference of the mean to the best's, and the p-value of that difference (Welch's t-test, two-sided; Welch,
        Biometrika 34, 1947). What one seed cannot tell is NaN."""
        import numpy as np
        import pandas as pd
        from scipy import stats

        frames = (self.comparison.mean, self.comparison.std, self.comparison.count)
        mean, std, n = (frame[self.metric].to_numpy(dtype=float) for frame in frames)
        with np.errstate(all="ignore"):
            half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * std / np.sqrt(n)
            p = stats.ttest_ind_from_stats(mean[0], std[0], n[0], mean, std, n, equal_var=False).pvalue
        constant = std <= 1e-12 * np.abs(mean)  # over seeds, up to rounding
        p = np.where((n < 2) | (n[0] < 2) | (constant & constant[0]), math.nan, p)
        p[0] = math.nan
        return pd.DataFrame(
            {name: self.comparison.values(name) for name in self.varied}
            | {
                "n": n.astype(int),
                f"{self.metric}_mean": mean,
                f"{self.metric}_std": std,
                "ci95_low": mean - half,
                "ci95_high": mean + half,
                "difference": mean - mean[0],
                "p_value": p,
                "run_ids": [" ".join(run.run_id for run in group) for group in self.comparison.groups],
            }
        )


def rank(children: Sequence[RunRecord], metric: str, mode: Mode, varied: Sequence[str] = ()) -> Leaderboard | None:
    """The leaderboard of a sweep's runs.

    Args:
        children: in any state; those that are not finished, or without the objective, are left out.
        metric: the objective.
        varied: the keys that the sweep varies, of parameters or of groups (`optimizer` stands for `optimizer.name`);
            by default, and where that does not say it, the parameters that differ.

    Returns:
        None if no run has finished with the objective.
    """
    ranked = [run for run in children if run.status == "FINISHED" and math.isfinite(run.metrics.get(metric, math.nan))]
    if not ranked:
        return None
    comparison = compare.compare(ranked, metric, mode, SEED if any(SEED in run.params for run in ranked) else None)
    known = {name for run in ranked for name in run.params}
    named = [key if key in known else f"{key}.name" for key in varied if key != SEED]
    told_apart = {tuple(group[0].params.get(name) for name in named) for group in comparison.groups}
    if not set(named) <= known or len(told_apart) < len(comparison.groups):
        named = comparison.params
    return Leaderboard(comparison, list(dict.fromkeys(named)), metric, mode)


def verdict(board: Leaderboard) -> str:
    """In words: whether the best setting is better than the next beyond the noise between seeds."""
    table = board.table
    if len(table) == 1:
        return "There is one setting only, so there is nothing to compare it with."
    best, following = table.iloc[0], table.iloc[1]
    seeds = f"{SEED}=0,1,2,3,4"
    if best.n < 2 and following.n < 2:
        return f"One seed each: noise unknown, so the order may be chance. A sweep over seeds would tell: {seeds}"
    if best.n < 2 or following.n < 2:
        which = "best" if best.n < 2 else "next"
        return f"The {which} setting has one seed only: noise unknown. A sweep over more seeds would tell: {seeds}"
    if following.difference == 0:
        return "The two best settings have the same mean: neither is better."
    if not math.isfinite(following.p_value):
        return "Seeds make no difference to the two best settings, so there is no noise that could be measured."
    behind = f"by {abs(following.difference):.3g} on average"
    test = f"Welch's t-test over {best.n} and {following.n} seeds, p = {_p(following.p_value)}"
    if following.p_value < SIGNIFICANCE:
        return f"Better than the next beyond noise: {behind} ({test})."
    alike = int((table.p_value >= SIGNIFICANCE).sum())
    also = f" {alike} settings are that close to the best." if alike > 1 else ""
    tell = f"A sweep over more seeds would tell: {seeds}"
    return f"Not better than the next beyond noise: ahead {behind} ({test}).{also} {tell}"


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"


def figures(board: Leaderboard, style: "Style" = "light") -> dict[str, "Figure"]:
    """The figures of a sweep by name, in the order in which they are best read."""
    from experiments.figures import comparison as compared
    from experiments.figures import sweep

    table, groups = board.table, board.comparison.groups
    runs = board.comparison.runs
    count = f"{plural(len(groups), 'setting')}, {plural(len(runs), 'run')}"
    mean, std = table[f"{board.metric}_mean"].tolist(), table[f"{board.metric}_std"].fillna(0).tolist()
    several = bool(table.n.max() > 1)
    drawn = {}
    if len(groups) > 1:
        drawn["01_leaderboard"] = compared.ranking(
            board.metric,
            [_setting(row, board.varied) for _, row in table.iterrows()],
            mean,
            std,
            f"{count}; {'mean ± standard deviation over seeds' if several else 'one seed each'}",
            style,
        )
    by_setting = {name: [_value(run.params.get(name)) for run, *_ in groups] for name in board.varied}
    by_setting = {name: values for name, values in by_setting.items() if len(set(values)) > 1}
    if by_setting:
        points = ", one for each value"
        if len(by_setting) > 1:
            points = "; points: runs, line: their mean, whatever the other parameters are"
        elif several:
            points = "; points: runs, line: their mean over seeds"
        drawn["02_effects"] = sweep.effects(
            board.metric,
            {name: [_value(run.params.get(name)) for run in runs] for name in by_setting},
            [run.metrics[board.metric] for run in runs],
            board.mode,
            f"{plural(len(runs), 'run')}{points}",
            style,
        )
    if len(by_setting) == 2:
        (x_name, x), (y_name, y) = sorted(by_setting.items(), key=lambda item: -len(set(item[1])))
        columns, rows = [_shown(value) for value in x], [_shown(value) for value in y]
        if is_grid(columns, rows):
            of = "mean over seeds" if several else "one seed each"
            drawn["03_heat_map"] = compared.heat_map(
                board.metric, x_name, columns, y_name, rows, mean, board.mode, f"{count}; {of}", style
            )
    if len(by_setting) >= 2:
        drawn["04_parallel_coordinates"] = sweep.parallel_coordinates(
            board.metric, by_setting, mean, board.mode, f"{count}; orange: the best, darker: better", style
        )
    return drawn


def _value(text: str | None) -> float | str | None:
    return None if text in (None, "None") else axis_value(text)


def _shown(value: float | str | None) -> float | str:
    return "none" if value is None else value


def _short(names: Sequence[str]) -> dict[str, str]:
    """The last part of each parameter's name, or the whole where that is not enough: `dropout`, `optimizer.name`."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return {n: n if last.count(part) > 1 or part == "name" else part for n, part in zip(names, last, strict=True)}


def _setting(values: Mapping[str, Any], varied: Sequence[str]) -> str:
    """`dropout=0.1 learning_rate=0.001`"""
    return " ".join(f"{short}={_cell(values[name])}" for name, short in _short(varied).items()) or "the one setting"


def _cell(value: object) -> str:
    """A parameter's value for people: a long number, such as a search draws, to four digits."""
    if not isinstance(value, str):  # NaN: pandas has no other word for what a run does not have
        return "-"
    number = axis_value(value)
    return f"{number:.4g}" if isinstance(number, float) and len(value) > 8 and "[" not in value else value


def as_table(board: Leaderboard) -> "Table":
    """The top of the leaderboard for the terminal."""
    from rich.table import Table
    from rich.text import Text

    header, rows = _rows(board)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in header:
        table.add_column(Text(plain(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def _rows(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the top of the leaderboard, as the note and the terminal show it."""
    frame = board.comparison.mean
    also = [name for name in ALSO if name != board.metric and name in frame][:1]
    header = ["", *_short(board.varied).values(), "n", board.metric, "95 % CI", "difference", "p", *also]
    rows = []
    for position, row in board.table.head(TOP).iterrows():
        rows.append(
            [
                str(position + 1),
                *(_cell(row[name]) for name in board.varied),
                str(row.n),
                with_spread(row[f"{board.metric}_mean"], row[f"{board.metric}_std"]),
                _interval(row),
                "best" if position == 0 else f"{row.difference:+.2g}",
                "" if math.isnan(row.p_value) else _p(row.p_value),
                *(f"{frame.at[position, name]:.4g}" for name in also),
            ]
        )
    return header, rows


def _interval(row: "pd.Series") -> str:
    """The confidence interval of the mean, to the decimals that it leaves sure."""
    if math.isnan(row.ci95_low):
        return "unknown"
    half = (row.ci95_high - row.ci95_low) / 2
    if half <= 1e-12 * abs(row.ci95_low):
        return f"{row.ci95_low:.5g} to {row.ci95_high:.5g}"
    places = decimals(half)
    return f"{row.ci95_low:.{places}f} to {row.ci95_high:.{places}f}"


def headline(board: Leaderboard) -> str:
    """The winner in a sentence: what it is, and its value with the confidence interval."""
    row = board.table.iloc[0]
    mean = row[f"{board.metric}_mean"]
    spread = "one seed" if row.n < 2 else f"95 % CI {_interval(row)}, {row.n} seeds"
    ties = int((board.table[f"{board.metric}_mean"] == mean).sum()) - 1
    tied = f", and {ties} other setting{'s' * (ties > 1)} the same" if ties else ""
    return f"Best: {_setting(row, board.varied)} with {board.metric} {mean:.5g} ({spread}){tied}"


def note(
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
    table = ui_pages.sweep_table(experiment_id, parent_id)
    links = {"all runs": table, "charts": ui_pages.as_charts(table)}
    if board is not None:
        ids = [run.run_id for run in board.comparison.runs[:COMPARED]]
        links |= {
            "runs side by side": ui_pages.compare_page(experiment_id, ids),
            "the best run": ui_pages.run_page(experiment_id, board.best.run_id),
        }
    # Relative to the page, so that they hold on every server, also behind a prefix.
    linked = " · ".join(f"[{word}]({address.lstrip('/')})" for word, address in links.items())
    if board is None:
        blocks = ["**No run of this sweep has finished with its objective.**", linked]
    else:
        setting, _, value = headline(board).partition(" with ")
        blocks = [f"**{escaped(setting)}** with {value}.", linked, verdict(board)]
        if board.metric.startswith("test_"):
            blocks.append("The objective is measured on the test set, so the best value of several is optimistic.")
    if failures:
        more = [f"- and {len(failures) - LISTED} more"] if len(failures) > LISTED else []
        blocks.append(f"**{plural(len(failures), 'job')} did not finish:**")
        blocks.append("\n".join([*(f"- {escaped(failure[:LONGEST])}" for failure in failures[:LISTED]), *more]))
    if board is not None:
        header, rows = _rows(board)
        # The UI sets cells close together; the spaces of Markdown do not count.
        cells = ([f"{escaped(cell)}&emsp;" for cell in line] for line in rows)
        lines = [map(escaped, header), ["---"] * len(header), *cells]
        blocks.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        settings = len(board.table)
        if settings > TOP:
            blocks.append(f"The best {TOP} of {settings} settings; all of them: `tables/leaderboard.json`.")
        blocks.append(f"Best run: `{board.best.run_id}`; its config: `config/best.yaml`.")
    listed = (line for word, command in commands.items() for line in (f"# {word}", command))
    blocks.append("\n".join(["```", *listed, "```"]))
    for name in pictures:
        file = f"figures/{name}.png"
        blocks.append(f"![{file}](get-artifact?path={file}&run_uuid={parent_id})")
    return "\n\n".join(blocks)


def commands(board: Leaderboard | None, uri: str | None, parent_id: str, again: str) -> dict[str, str]:
    """What to do with a sweep, a word for each command; passwords in the address of the store are left out.

    Args:
        uri: of the store, as the config has it: None for the one in force.
        again: the command that made the sweep.
    """
    option = f" --uri {shlex.quote(uri)}" if uri else ""
    found = {"look": f"python scripts/ui.py --sweep {parent_id}{option}"}
    if board is not None:
        grouped = f" --group-by {SEED}" if board.comparison.group_by else ""
        mode = f" --mode {board.mode}" if compare.direction(board.metric) != board.mode else ""
        asked = f"--sweep {parent_id}{grouped} --metric {board.metric}{mode}"
        found["compare"] = f"python scripts/compare.py {asked}{option}"
        _, overrides = resume.recorded(tracking.resolve_uri(uri), board.best.run_id)
        found["run the best again"] = summary.command(overrides)
    return {word: tracking.shown(line) for word, line in found.items()} | {"enter the sweep again": again}


def prepare(run: tracking.Run, varied: Mapping[str, Sequence[str]], metric: str, mode: Mode) -> None:
    """Make the view of the sweep's runs in the UI before there are any.

    Args:
        run: the parent.
        varied: the keys that the sweep varies, as in `rank`, each with its values.
    """
    params = {key if "." in key or key == SEED else f"{key}.name": values for key, values in varied.items()}
    charted = [name for name, values in params.items() if not any(value.startswith("[") for value in values)]
    run.share_sweep_view(list(params), charted, metric, mode)


def publish(
    run: tracking.Run,
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
        run.share_sweep_view(board.varied, _charted(board), board.metric, board.mode)
        run.log_table(board.table, "tables/leaderboard.json")
        run.log_text(board.table.to_csv(index=False), "tables/leaderboard.csv")
        drawn = figures(board, style)
        _log_figures(run, drawn)
        run.set_tags({"best_run": best.run_id})
        run.log_text(tracking.read(run.uri, best.run_id, "config/config.yaml"), "config/best.yaml")
        run.replace_metrics({k: v for k, v in best.metrics.items() if k.startswith(FINAL) or k == board.metric})
    text = note(board, run.experiment_id, run.run_id, commands, failures, list(drawn))
    run.set_tags({"mlflow.note.content": text})


def show(run: tracking.Run, board: Leaderboard | None, commands: Mapping[str, str]) -> None:
    """Print the top of the leaderboard, what it means, and the next commands."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 100_000
    console.print()
    if board is None:
        console.print("No run of this sweep has finished with its objective.")
    else:
        console.print(as_table(board), soft_wrap=False)
        if len(board.table) > TOP:
            console.print(f"The best {TOP} of {len(board.table)} settings.")
        console.print(f"\n{headline(board)}.\n{verdict(board)}")
    console.print(f"\nSweep {run.name} ({run.run_id}) in {tracking.shown(run.uri)}")
    if run.uri.startswith("http"):
        console.print(tracking.shown(run.uri).rstrip("/") + ui_pages.sweep_table(run.experiment_id, run.run_id))
    console.print("\nNext:")
    for word, line in commands.items():
        console.print(f"  {line}  # {word}")


def _log_figures(run: tracking.Run, drawn: Mapping[str, "Figure"]) -> None:
    from experiments.figures import save

    with TemporaryDirectory() as folder:
        for name, figure in drawn.items():
            save(figure, Path(folder, f"{name}.png"))
        run.log_artifacts(Path(folder), "figures")


def _charted(board: Leaderboard) -> list[str]:
    """The parameters that MLflow's charts can have as an axis: those whose values are no lists."""
    runs = board.comparison.runs
    return [name for name in board.varied if not any((run.params.get(name) or "").startswith("[") for run in runs)]
