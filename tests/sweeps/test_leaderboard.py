"""Leaderboards: ranks and verdicts on tiny literals, and what the parent run has in a real store."""

import csv
import io
import json
import math
from types import SimpleNamespace

import pytest
import yaml
from scipy import stats
from stores import artifact, files

from experiments.config.composition import compose_job
from experiments.config.identity import config_to_dict
from experiments.sweeps.leaderboard import (
    TOP_ROWS,
    describe_division,
    leaderboard_figures,
    leaderboard_headline,
    leaderboard_table,
    leaderboard_verdict,
    log_figures,
    print_leaderboard,
    publish_leaderboard,
    sweep_commands,
    sweep_note,
)
from experiments.sweeps.ranking import rank_children
from experiments.tracking.records import RunRecord, sweep_children
from experiments.tracking.run import open_run, reopen_ended_run
from experiments.tracking.store import connect_store, open_existing_store
from experiments.tracking.ui_pages import sweep_page


def a_run(number, params, metrics, status="FINISHED"):
    return RunRecord(f"{number:032x}", f"run {number}", status, number, number, params, metrics, {})


def over_seeds(metric="best_val_accuracy", **values):
    """Runs with seeds 0, 1, ... for each dropout."""
    return [
        a_run(10 * i + seed, {"model.dropout": dropout[1:], "model.name": "mlp", "seed": str(seed)}, {metric: value})
        for i, (dropout, of_seeds) in enumerate(values.items())
        for seed, value in enumerate(of_seeds)
    ]


def rank(children, metric="best_val_accuracy", mode="max", varied=()):
    board = rank_children(children, metric, mode, varied)
    assert board is not None
    return board


def printed(board):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    console.print(leaderboard_table(board))
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_settings_are_ranked_over_seeds_with_students_interval_and_welchs_test():
    table = rank(over_seeds(_1=[1, 2, 3], _2=[3, 4, 5], _3=[0.5])).table
    assert table["model.dropout"].tolist() == ["2", "1", "3"]
    assert table.n.tolist() == [3, 3, 1]
    assert table.best_val_accuracy_mean.tolist() == [4, 2, 0.5]
    assert table.best_val_accuracy_std.tolist()[:2] == [1, 1]
    assert table.difference.tolist() == [0, -2, -3.5]
    # t(0.975, 2) = 4.302653; t = 2 / sqrt(2/3) with 4 degrees of freedom
    assert table.ci95_low[0] == pytest.approx(4 - 4.302653 / math.sqrt(3))
    assert table.ci95_high[0] == pytest.approx(4 + 4.302653 / math.sqrt(3))
    assert table.p_value[1] == pytest.approx(0.0705, abs=1e-4)
    assert table.loc[2, ["best_val_accuracy_std", "ci95_low", "ci95_high", "p_value"]].isna().all()
    assert table.run_ids[2] == f"{20:032x}"


def test_the_least_is_best_in_mode_min():
    board = rank(over_seeds("val_loss", _1=[0.5, 0.6], _2=[0.2, 0.1]), "val_loss", "min")
    assert board.table["model.dropout"].tolist() == ["2", "1"]
    assert board.best.metrics == {"val_loss": 0.1}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"_1": [0.9]}, "only one setting"),
        ({"_1": [0.9], "_2": [0.8]}, "One seed each: noise unknown"),
        ({"_1": [0.9], "_2": [0.8, 0.81]}, "The best setting has only one seed: noise unknown"),
        ({"_1": [0.9, 0.91], "_2": [0.8]}, "The next setting has only one seed: noise unknown"),
        ({"_1": [0.9, 0.8], "_2": [0.8, 0.9]}, "the same mean: neither is better"),
        ({"_1": [0.9, 0.9], "_2": [0.8, 0.8]}, "Seeds make no difference"),
        ({"_1": [0.9, 0.91], "_2": [0.5, 0.51]}, "Better than the next beyond noise: by 0.4 on average"),
        ({"_1": [0.9, 0.8], "_2": [0.7, 0.9]}, "Not better than the next beyond noise: ahead by 0.05 on average"),
        ({"_1": [0.9, 0.8], "_2": [0.7, 0.9], "_3": [0.7, 0.89]}, "2 settings are that close to the best."),
    ],
)
def test_the_verdict_says_whether_the_best_is_better_beyond_noise(values, said):
    assert said in leaderboard_verdict(rank(over_seeds(**values)))


def over_folds(folds: int, **values: list[float]) -> list[RunRecord]:
    """Runs with seed 0 on each of the first folds for each dropout."""
    common = {"model.name": "mlp", "seed": "0", "data.folds": str(folds), "data.split_seed": "0"}
    return [
        a_run(10 * i + fold, {**common, "model.dropout": dropout[1:], "data.fold": str(fold)}, {"test_accuracy": value})
        for i, (dropout, of_folds) in enumerate(values.items())
        for fold, value in enumerate(of_folds)
    ]


def test_folds_are_compared_in_pairs_and_corrected_for_their_overlap():
    children = over_folds(5, _1=[0.5, 0.6, 0.7, 0.8], _2=[0.53, 0.61, 0.72, 0.82])
    board = rank(children, "test_accuracy")
    assert (board.comparison.group_by, board.varied) == ("seed,data.fold", ["model.dropout"])
    # Differences 0.03, 0.01, 0.02, 0.02: mean 0.02, variance 0.0002 / 3; with 3 degrees of freedom.
    variance = 0.0002 / 3
    for column, share in (("p_value", 1 / 4), ("p_corrected", 1 / 4 + 1 / 4)):
        t = 0.02 / math.sqrt(variance * share)
        assert board.table[column][1] == pytest.approx(2 * stats.t.sf(t, 3))
    half = stats.t.ppf(0.975, 3) * board.table.test_accuracy_std[0] * math.sqrt(1 / 4 + 1 / 4)
    assert board.table.ci95_high[0] == pytest.approx(board.table.test_accuracy_mean[0] + half)
    assert leaderboard_verdict(board).startswith("Better than the next beyond noise: by 0.02 on average (corrected")
    assert "is divided into 5 parts" in " ".join(describe_division(board))
    assert leaderboard_headline(board).endswith("4 runs)")
    assert describe_division(rank(over_seeds(_1=[1, 2]))) == []


def test_runs_on_other_folds_are_not_paired():
    table = rank([*over_folds(5, _1=[0.5, 0.6]), *over_folds(4, _2=[0.6, 0.8])], "test_accuracy").table
    assert table[["p_value", "p_corrected"]].isna().all(axis=None)


def test_the_verdict_suggests_seeds_for_runs_without_that_parameter():
    foreign = [a_run(i, {"depth": str(i)}, {"best_val_accuracy": i / 4}) for i in (1, 2)]
    assert leaderboard_verdict(rank(foreign)).endswith("To find out, sweep over more seeds: seed=0,1,2,3,4")


def test_leaves_out_runs_that_are_unfinished_or_lack_a_finite_objective():
    params = {"model.dropout": "0.1", "seed": "0"}
    children = [
        a_run(1, params, {"best_val_accuracy": 0.5}),
        a_run(2, {**params, "seed": "1"}, {"best_val_accuracy": math.nan}),
        a_run(3, {**params, "seed": "2"}, {"loss": 1.0}),
        a_run(4, {**params, "seed": "3"}, {"best_val_accuracy": 0.9}, "KILLED"),
    ]
    assert rank(children).table.n.tolist() == [1]
    assert rank_children(children[1:], "best_val_accuracy", "max", []) is None


def test_a_setting_is_what_the_sweep_varies_or_else_what_differs():
    children = [
        a_run(i, {"optimizer.name": name, "optimizer.beta_1": beta, "seed": "0"}, {"best_val_accuracy": 0.9})
        for i, (name, beta) in enumerate([("adam", "0.9"), ("sgd", "none")])
    ]
    assert rank(children, varied=["optimizer", "seed"]).varied == ["optimizer.name"]
    assert rank(children, varied=["experiment"]).varied == ["optimizer.name", "optimizer.beta_1"]
    assert rank(children).varied == ["optimizer.name", "optimizer.beta_1"]
    assert rank(over_seeds(_1=[1, 2], _2=[3, 4]), varied=["seed"]).varied == ["model.dropout"]  # seed does not say it


def test_the_terminal_shows_the_top_with_short_names_and_certain_digits():
    header, first, second = printed(rank(over_seeds(**{"_0.1": [0.97, 0.975, 0.98], "_0.25": [0.91]})))
    assert header == ["dropout", "n", "best_val_accuracy", "95", "%", "CI", "difference", "p"]
    assert first == ["1", "0.1", "3", "0.9750", "±", "0.0050", "0.963", "to", "0.987", "best"]
    assert second == ["2", "0.25", "1", "0.91", "unknown", "-0.065"]
    assert len(printed(rank(over_seeds(**{f"_{i}": [i] for i in range(12)})))) == 1 + TOP_ROWS


def test_long_numbers_of_a_search_are_shortened_for_people_only():
    board = rank(over_seeds(**{"_0.29016619299342533": [0.9], "_0.1": [0.8]}))
    assert leaderboard_headline(board) == "Best: dropout=0.2902 with best_val_accuracy 0.9 (one seed)"
    assert board.table["model.dropout"][0] == "0.29016619299342533"


def test_the_figures_depend_on_what_varies():
    def drawn(**axes):
        names = list(axes)
        children = [
            a_run(i, dict(zip(["a.x", "a.y", "a.z"], map(str, values), strict=False)), {"acc": i})
            for i, values in enumerate(axes[names[0]])
        ]
        return [name[3:] for name in leaderboard_figures(rank(children, "acc"))]

    assert drawn(one=[(1,), (2,)]) == ["leaderboard", "effects"]
    assert drawn(two=[(1, 1), (1, 2), (2, 1), (2, 2)]) == [
        "leaderboard", "effects", "heat_map", "parallel_coordinates"
    ]  # fmt: skip
    assert drawn(scattered=[(1, 6), (2, 5), (3, 9), (4, 7)]) == ["leaderboard", "effects", "parallel_coordinates"]
    assert drawn(three=[(1, 1, 1), (2, 2, 2)]) == ["leaderboard", "effects", "parallel_coordinates"]
    assert drawn(none=[(1,)]) == []


def test_captions_mention_seeds_only_if_there_are_several():
    def subtitles(runs):
        return [figure.texts[1].get_text() for figure in leaderboard_figures(rank(runs, "acc")).values()]

    assert subtitles(over_seeds("acc", _1=[1, 2], _2=[3, 4])) == [
        "2 settings, 4 runs; mean ± standard deviation over seeds",
        "4 runs; points: runs, line: their mean over seeds",
    ]
    grid = [a_run(i, {"a.x": str(i % 2), "a.y": str(i // 2)}, {"acc": i}) for i in range(4)]
    assert subtitles(over_seeds("acc", _1=[1], _2=[3])) == [
        "2 settings, 2 runs; one seed each",
        "2 runs, one for each value",
    ]
    assert subtitles(grid)[2] == "4 settings, 4 runs; one seed each"


# --- on the parent run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A sweep over dropout and seeds with one failed run, its parent ended; uri and the parent's id."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    with open_run(uri, "trial", "sweep", {}, {"sweep": "digest"}) as parent:
        pass
    for dropout, seed, accuracy in [("0.1", 0, 0.9), ("0.1", 1, 0.91), ("0.3", 0, 0.5), ("0.3", 1, 0.51)]:
        overrides = ["data=digits", f"model.dropout={dropout}", f"seed={seed}"]
        config = compose_job(overrides)
        params = {"model.dropout": dropout, "seed": seed}
        with open_run(uri, "trial", None, params, {"mlflow.parentRunId": parent.run_id}) as run:
            run.log_text(yaml.safe_dump(config_to_dict(config)), "config/config.yaml")
            run.log_text(yaml.safe_dump(overrides), "config/overrides.yaml")
            run.log_metrics({"best_val_accuracy": accuracy, "test_accuracy": accuracy - 0.1, "loss": 0.3})
    return uri, parent.run_id


def publish(uri, parent_id, run, board, failures=()):
    commands = sweep_commands(board, uri, parent_id, "python run.py -m seed=0,1")
    publish_leaderboard(run, board, commands, failures, "light")
    return commands


@pytest.fixture(scope="module")
def published(store):
    uri, parent_id = store
    board = rank(sweep_children(open_existing_store(uri), parent_id), varied=["model.dropout", "seed"])
    with reopen_ended_run(uri, parent_id) as run:
        publish(uri, parent_id, run, board, ["dropout=0.9, seed 0: ValueError: a|b\n*c*"])
    return uri, connect_store(uri).get_run(parent_id)


def test_the_parent_has_table_csv_figures_and_the_best_config(published):
    uri, parent = published
    run_id = parent.info.run_id
    table = json.loads(artifact(uri, run_id, "tables/leaderboard.json"))
    assert table["columns"][:3] == ["model.dropout", "n", "best_val_accuracy_mean"]
    assert [row[0] for row in table["data"]] == ["0.1", "0.3"]
    rows = list(csv.DictReader(io.StringIO(artifact(uri, run_id, "tables/leaderboard.csv"))))
    assert [row["n"] for row in rows] == ["2", "2"]
    assert float(rows[1]["p_value"]) < 0.05
    assert files(uri, run_id, "figures") == {"figures/01_leaderboard.png", "figures/02_effects.png"}
    best = yaml.safe_load(artifact(uri, run_id, "config/best.yaml"))
    assert (best["model"]["dropout"], best["seed"]) == (0.1, 1)


def test_the_parents_row_shows_the_best_run_and_its_final_metrics(published):
    uri, parent = published
    assert parent.data.metrics == {"best_val_accuracy": 0.91, "test_accuracy": pytest.approx(0.81)}
    assert connect_store(uri).get_run(parent.data.tags["best_run"]).data.params["seed"] == "1"


def test_the_note_has_the_winner_the_verdict_the_failures_and_the_commands(published):
    uri, parent = published
    run_id, note = parent.info.run_id, parent.data.tags["mlflow.note.content"]
    assert note.startswith("**Best: dropout=0.1** with best_val_accuracy 0.905 (95 % CI 0.841 to 0.969, 2 seeds).\n\n")
    assert "Better than the next beyond noise: by 0.4 on average" in note
    assert "**1 job did not finish:**\n\n- dropout=0.9, seed 0: ValueError: a\\|b \\*c\\*" in note
    assert f"python scripts/ui.py --sweep {run_id} --uri {uri}" in note
    assert f"python scripts/compare.py --sweep {run_id} --group-by seed --metric best_val_accuracy --uri {uri}" in note
    assert "python run.py data=digits model.dropout=0.1 seed=1\n" in note
    assert f"![figures/02_effects.png](get-artifact?path=figures/02_effects.png&run_uuid={run_id})" in note


def test_the_ui_view_of_the_runs_shows_what_varies_first_and_charts(published):
    uri, parent = published
    client = connect_store(uri)
    tags = client.get_experiment(parent.info.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{parent.info.run_id}"])
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best_val_accuracy`", False)
    assert view["selectedColumns"][:3] == ["params.`model.dropout`", "params.`seed`", "metrics.`best_val_accuracy`"]
    assert [chart["type"] for chart in view["compareRunCharts"]] == ["PARALLEL", "SCATTER"]
    assert sweep_page(client, parent.info.run_id).endswith(f"viewStateShareKey={parent.info.run_id}")


def test_a_parent_entered_again_shows_the_new_results(store, published):
    uri, parent_id = store
    children = [
        run for run in sweep_children(open_existing_store(uri), parent_id) if run.params["model.dropout"] == "0.3"
    ]
    with open_run(uri, "trial", None, {}, {}, parent_id) as run:
        publish(uri, parent_id, run, rank(children, "test_accuracy"))
    parent = connect_store(uri).get_run(parent_id)
    assert parent.data.metrics["test_accuracy"] == pytest.approx(0.41)
    assert "optimistic" in parent.data.tags["mlflow.note.content"]


def test_a_sweep_without_a_finished_run_says_so(store, capsys):
    uri, _ = store
    with open_run(uri, "trial", "empty", {}, {}) as run:
        print_leaderboard(run, None, publish(uri, run.run_id, run, None, ["seed 0: died"]))
    note = connect_store(uri).get_run(run.run_id).data.tags["mlflow.note.content"]
    assert note.startswith("**No run of this sweep has finished with its objective.**")
    assert "- seed 0: died" in note
    assert "No run of this sweep has finished with its objective." in capsys.readouterr().out


def test_figures_that_cannot_be_drawn_leave_the_others_and_a_finished_sweep(store, capsys):
    uri, _ = store
    board = rank(over_seeds(**{"_0.1": [0.9], "_0.3": [0.8]}))

    def draw():
        return {"broken": None, **leaderboard_figures(board)}

    with open_run(uri, "trial", "drawn", {}, {}) as run:
        assert log_figures(run, draw) == ["01_leaderboard", "02_effects"]
    parent = connect_store(uri).get_run(run.run_id)
    assert (parent.info.status, parent.data.tags["report_missing"]) == ("FINISHED", "figures/broken.png")
    assert files(uri, run.run_id, "figures") == {"figures/01_leaderboard.png", "figures/02_effects.png"}
    assert f"The report of run {run.run_id} lacks figures/broken.png: AttributeError" in capsys.readouterr().err


def test_prints_the_table_the_verdict_and_the_next_commands(store, capsys):
    uri, parent_id = store
    board = rank(sweep_children(open_existing_store(uri), parent_id), varied=["model.dropout"])
    with reopen_ended_run(uri, parent_id) as run:
        print_leaderboard(run, board, {"look": "python scripts/ui.py"})
    out = capsys.readouterr().out
    assert out.split("\n")[1].split()[:3] == ["dropout", "n", "best_val_accuracy"]
    assert "Better than the next beyond noise" in out
    assert "  python scripts/ui.py  # look" in out


def test_a_note_on_many_runs_and_failures_fits_in_mlflows_limit():
    board = rank(over_seeds(**{f"_0.{i}": [i / 100, i / 99] for i in range(10, 99)}))
    run = SimpleNamespace(run_id="f" * 32, experiment_id="1")
    note = sweep_note(run, board, {"look": "python " * 40}, ["x" * 2000] * 99, ["a", "b", "c", "d"])
    assert len(note) < 8000
    assert "**99 jobs did not finish:**" in note
    assert "- and 89 more" in note
    assert "The best 10 of 89 settings" in note


def test_the_page_of_another_programs_sweep_filters_by_its_parent(store):
    client = connect_store(store[0])
    parent = client.create_run(client.create_experiment("theirs")).info.run_id
    found = sweep_page(client, parent)
    assert "viewStateShareKey" not in found
    assert f"&searchFilter=tags.%60mlflow.parentRunId%60%20%3D%20%27{parent}%27" in found
