"""The trials of a search on made-up results: proposals, interruptions, pruning and figures."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text
from stores import runs
from test_search import CHOICES, DROPOUT, RATE, checked

from experiments.errors import TrialPruned
from experiments.sweeps.earlier_trials import EarlierTrial
from experiments.sweeps.study import SearchStudy, pruning_watch, study_figures, trials_table

Points = list[Mapping[str, Any]]
SPACE = (DROPOUT, RATE, CHOICES)


def value(point: Mapping[str, Any]) -> float:
    return -((float(point["model.dropout"]) - 0.2) ** 2)


def run(journal: Path, *overrides: str, stop_in: int | None = None, at_once: int = 1) -> tuple[Points, SearchStudy]:
    """Tell the study a value for every trial; `stop_in` leaves that trial as a kill does."""
    trials = SearchStudy(checked(*overrides), journal)
    points: Points = []
    while batch := trials.ask(at_once):
        for trial in batch:
            if len(points) == stop_in:
                return points, trials
            points.append(trial.params)
            trials.tell(trial, f"run{trial.number}", "FINISHED", value(trial.params))
    return points, trials


def settings(sampler: str, trials: int) -> list[str]:
    return [f"hydra.sweeper.sampler={sampler}", f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.startup_trials=4"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_search_draws_the_same_trials_after_an_interruption(sampler: str, tmp_path: Path) -> None:
    overrides = [*SPACE, *settings(sampler, 12)]
    whole, _ = run(tmp_path / "whole", *overrides)
    before, _ = run(tmp_path / "cut", *overrides, stop_in=7)
    after, trials = run(tmp_path / "cut", *overrides)
    assert [*before, *after] == whole
    assert len({str(point) for point in whole}) == 12
    assert len(trials.optuna.trials) == 12


def test_more_trials_continue_the_search_and_another_seed_draws_others(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "a", *SPACE, *settings("tpe", 5))
    more, _ = run(tmp_path / "a", *SPACE, *settings("tpe", 8))
    other, _ = run(tmp_path / "b", *SPACE, *settings("tpe", 5), "hydra.sweeper.seed=1")
    assert len(more) == 3
    assert all(point not in first for point in [*more, *other])


def test_a_grid_tries_every_combination_once_in_order_and_ends(tmp_path: Path) -> None:
    overrides = ["model.dropout=range(0,0.3,0.1)", CHOICES, *settings("grid", 20)]
    before, _ = run(tmp_path / "grid", *overrides, stop_in=2)
    after, _ = run(tmp_path / "grid", *overrides, at_once=3)
    points = [tuple(point.values()) for point in [*before, *after]]
    assert points == [(d, a) for d in (0.0, 0.1, 0.2) for a in ("relu", "tanh")]
    assert run(tmp_path / "grid", *overrides)[0] == []


def test_a_failed_trial_does_not_end_the_search_and_is_retried_by_the_next_command(tmp_path: Path) -> None:
    overrides = [*SPACE, *settings("random", 3)]
    trials = SearchStudy(checked(*overrides), tmp_path / "journal")
    seen = []
    for status, result in (("FAILED", None), ("FINISHED", 0.5), ("FINISHED", float("nan"))):
        (trial,) = trials.ask(1)
        seen.append(dict(trial.params))
        trials.tell(trial, None, status, result)
    assert trials.ask(1) == []
    assert trials_table(trials)["status"] == ["FAIL", "COMPLETE", "FAIL"]
    fewer = SearchStudy(checked(*SPACE, *settings("random", 1)), tmp_path / "journal")
    assert (fewer.left, fewer.not_tried_again) == (0, [seen[0], seen[2]])
    again, trials = run(tmp_path / "journal", *overrides)
    assert again == [seen[0], seen[2]]
    assert trials.not_tried_again == []
    assert run(tmp_path / "journal", *overrides)[0] == []


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_trial_that_diverges_is_the_worst_result_and_is_not_run_again(sampler: str, tmp_path: Path) -> None:
    overrides = [*SPACE, *settings(sampler, 12)]
    trials = SearchStudy(checked(*overrides), tmp_path / "journal")
    while batch := trials.ask(1):
        point = batch[0].params
        diverges = point["optimizer.learning_rate"] > 2e-3
        status, result = ("DIVERGED", None) if diverges else ("FINISHED", value(point))
        trials.tell(batch[0], None, status, result)
    rows = trials_table(trials)
    diverged = [n for n, status in enumerate(rows["status"]) if status == "DIVERGED"]
    assert 0 < len(diverged) < 12
    assert {rows["best_val_accuracy"][n] for n in diverged} == {None}
    assert list(study_figures(trials)) == ["search_history", "search_importances"]
    again = SearchStudy(checked(*overrides), tmp_path / "journal")
    assert (again.left, again.not_tried_again, again.ask(1)) == (0, [], [])


def test_a_search_learns_from_earlier_trials_within_its_bounds_and_runs_all_of_its_own(tmp_path: Path) -> None:
    points = [
        {"model.dropout": d, "optimizer.learning_rate": 1e-3, "model.activation": "relu"} for d in (0.2, 0.4, 0.6)
    ]
    earlier = [EarlierTrial(point, None if n == 1 else value(point), f"e{n}") for n, point in enumerate(points)]
    overrides = [*SPACE, *settings("tpe", 5)]
    trials = SearchStudy(checked(*overrides), tmp_path / "journal")
    trials.begin_from(earlier)
    assert (trials.left, trials_table(trials)["status"]) == (5, ["COMPLETE", "DIVERGED"])  # the third lies outside
    points, trials = run(tmp_path / "journal", *overrides)  # type: ignore[assignment]
    trials.begin_from(earlier)
    assert (len(points), trials.left, len(trials.optuna.trials)) == (5, 0, 7)
    assert points != run(tmp_path / "alone", *overrides)[0]


@pytest.mark.parametrize(("pruner", "epoch"), [("median", 2), ("hyperband", 2)])
def test_a_poor_trial_is_pruned_after_the_warm_up_epochs(pruner: str, epoch: int, tmp_path: Path) -> None:
    found = checked(DROPOUT, *settings("random", 20), f"hydra.sweeper.pruner={pruner}", "hydra.sweeper.warmup_epochs=2")
    trials = SearchStudy(found, tmp_path / "journal")
    ended = []
    for number in range(20):
        (trial,) = trials.ask(1)
        entry = trials.pruning_entry(trial)
        assert entry is not None
        watch = pruning_watch(entry, epochs=9)
        good = number < 12
        at = 0
        with suppress(TrialPruned):
            for at in range(1, 10):
                watch(at, {"val_accuracy": (0.9 if good else 0.1) + at / 100, "loss": 1.0})
        ended.append((good, at))
        trials.tell(trial, None, "FINISHED" if at == 9 else "PRUNED", 0.99)
    assert min(at for _, at in ended) == epoch
    poor = [at for good, at in ended if not good]
    assert sum(at < 9 for at in poor) >= 4


@pytest.mark.slow
def test_the_run_of_a_pruned_trial_is_killed_with_the_reason_and_without_a_checkpoint(
    uri: str, tmp_path: Path, tensorflow: None
) -> None:
    from experiments.experiment import run_experiment
    from experiments.training.checkpoints import checkpoint_path

    digits = ["data=digits", "training.epochs=2", "training.threads=1", f"tracking.uri={uri}", "report.figures=none"]
    found = checked(DROPOUT, *digits, "hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=1")
    trials = SearchStudy(found, tmp_path / "journal")
    best, poor = trials.ask(2)
    best.report(1.0, 1)
    trials.tell(best, None, "FINISHED", 1.0)
    entry = trials.pruning_entry(poor)
    assert entry is not None
    with pytest.raises(TrialPruned):
        run_experiment(found.jobs[0].config, [], watch=pruning_watch(entry, epochs=2))
    (record,) = runs(uri)
    assert record.info.status == "KILLED"
    assert record.data.tags["pruned"] == "1"
    assert record.data.tags["end_reason"].startswith("pruned after epoch 1: val_accuracy=0.")
    assert "val_accuracy" in record.data.metrics
    assert not checkpoint_path(record.info.run_id).exists()


def test_the_figures_show_every_trial_and_rank_the_parameters(tmp_path: Path) -> None:
    _, trials = run(tmp_path / "journal", *SPACE, *settings("random", 12))
    drawn = study_figures(trials)
    assert list(drawn) == ["search_history", "search_importances"]
    history, importances = (figure.axes[0] for figure in drawn.values())
    values = trials_table(trials)["best_val_accuracy"]
    assert list(history.lines[1].get_ydata()) == values
    assert list(history.lines[0].get_ydata()) == [max(values[: n + 1]) for n in range(12)]
    assert importances.get_yticklabels()[0].get_text() == "model.dropout"
    words = [text.get_text() for text in drawn["search_history"].findobj(Text)]
    assert "12 trials" in words


def test_a_search_without_a_complete_trial_has_a_history_of_failures(tmp_path: Path) -> None:
    trials = SearchStudy(checked(*SPACE, *settings("random", 2)), tmp_path / "journal")
    for trial in trials.ask(2):
        trials.tell(trial, None, "FAILED", None)
    drawn = study_figures(trials)
    assert list(drawn) == ["search_history"]
    assert "2 trials, 2 failed" in [text.get_text() for text in drawn["search_history"].findobj(Text)]
