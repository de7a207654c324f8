"""Comparing runs: the comparison itself, and the command on real stores."""

import csv
import io
import json
import os
import pty
import runpy
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest
from conftest import PROJECT
from run_records import a_run, over_seeds, text_of

from experiments.comparison import comparison as comparison_module
from experiments.comparison import views
from experiments.comparison.code_changes import find_code_changes
from experiments.comparison.comparison import ComparisonError, compare_runs, comparison_notes, metric_direction
from experiments.comparison.views import comparison_json
from experiments.errors import StoreError
from experiments.tracking.liveness import process_tags
from experiments.tracking.records import experiment_runs, find_runs, sweep_children
from experiments.tracking.store import connect_store, open_existing_store

SCRIPT = PROJECT / "scripts" / "compare.py"


def order(comparison):
    return [group[0].name for group in comparison.groups]


def test_only_parameters_that_differ_are_kept_and_a_missing_one_differs():
    comparison = compare_runs(
        [
            a_run(1, {"a": "1", "b": "x", "c": "1"}),
            a_run(2, {"a": "1", "b": "y", "c": "1"}),
            a_run(3, {"a": "1", "b": "x"}),
        ]
    )
    assert comparison.params == ["b", "c"]
    assert comparison.values("c") == ["1", "1", None]


def test_values_that_mlflow_cut_are_compared_whole(uri):
    client = connect_store(uri)
    ids = []
    for seed in (0, 1):
        run_id = client.create_run("0").info.run_id
        layers = [{"Dense": {"units": 8}}] * 400 + [{"Dense": {"units": seed}}]
        client.log_param(run_id, "model.layers", json.dumps(layers))  # as earlier versions did
        client.log_param(run_id, "seed", seed)
        client.log_dict(run_id, {"seed": seed, "model": {"layers": layers}}, "config/config.yaml")
        client.log_metric(run_id, "test_accuracy", 0.5)
        client.set_terminated(run_id)
        ids.append(run_id)
    comparison = compare_runs(find_runs(client, ids), group_by="seed")
    assert comparison.params == ["model.layers"]
    assert [len(group) for group in comparison.groups] == [1, 1]
    first, second = (line for line in text_of(comparison)[1:])
    assert first != second


def test_parameters_without_effect_on_results_are_listed_apart():
    comparison = compare_runs(
        [a_run(1, {"seed": "0", "tracking.run_name": "a"}), a_run(2, {"seed": "1", "tracking.run_name": "b"})]
    )
    assert (comparison.params, comparison.bookkeeping) == (["seed"], ["tracking.run_name"])
    assert "Also different, without effect on results: tracking.run_name." in comparison_notes(comparison)


def test_runs_are_ranked_with_differences_from_the_best_and_those_without_the_metric_last():
    comparison = compare_runs(
        [
            a_run(1, metrics={"val_loss": 0.5}),
            a_run(2, metrics={"test_accuracy": 0.75, "test_loss": 0.5}),
            a_run(3, metrics={"test_accuracy": 1.0, "test_loss": 0.75}),
        ],
        metric="test_accuracy",
    )
    assert order(comparison) == ["run-3", "run-2", "run-1"]
    assert comparison.difference["test_accuracy"].tolist()[:2] == [0, -0.25]
    assert comparison.difference["test_loss"].tolist()[:2] == [0.25, 0]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([{"test_accuracy": 1, "test_loss": 1}, {"test_accuracy": 1, "test_loss": 1}], ("test_accuracy", "max")),
        ([{"test_accuracy": 1, "best_val_accuracy": 1}, {"best_val_accuracy": 1}], ("best_val_accuracy", "max")),
        ([{"test_accuracy": 1, "test_loss": 1}, {"test_loss": 1}], ("test_loss", "min")),
        ([{"rmse": 1, "depth": 3}, {"rmse": 2, "depth": 3}], ("rmse", "min")),
        ([{"depth": 3}, {}], ("depth", "max")),
        ([{}, {}], (None, "max")),
    ],
)
def test_default_metric_is_one_that_all_runs_have(metrics, expected):
    comparison = compare_runs([a_run(i, metrics=m) for i, m in enumerate(metrics)])
    assert (comparison.metric, comparison.mode) == expected


def test_killed_run_does_not_change_the_default_metric():
    runs = [a_run(1, metrics={"test_accuracy": 0.9, "loss": 1}), a_run(2, metrics={"loss": 0.5}, status="KILLED")]
    assert compare_runs(runs).metric == "test_accuracy"


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("test_accuracy", "max"), ("val_loss", "min"), ("test_error_percent", "min"), ("train_seconds", "min"),
        ("examples_per_second", "max"), ("mean_absolute_error", "min"), ("roc_auc", "max"), ("rmse", "min"),
        ("best_epoch", None), ("learning_rate", None), ("learned_weight", None),
    ],
)  # fmt: skip
def test_direction_follows_from_the_name_of_a_metric(metric, mode):
    assert metric_direction(metric) == mode


def test_mode_overrides_the_direction():
    runs = [a_run(1, metrics={"reward": 1.0}), a_run(2, metrics={"reward": 3.0})]
    assert order(compare_runs(runs)) == ["run-2", "run-1"]
    turned = compare_runs(runs, mode="min")
    assert (order(turned), turned.difference["reward"].tolist()) == (["run-1", "run-2"], [0, 2])


def test_grouping_by_seed_gives_mean_sample_deviation_and_count():
    comparison = compare_runs(over_seeds(_0=[0.5, 0.75, 1.0], _1=[0.25, 0.5]), group_by="seed")
    assert comparison.params == ["model.dropout"]
    assert comparison.values("model.dropout") == ["0", "1"]
    assert comparison.mean["test_accuracy"].tolist() == [0.75, 0.375]
    assert comparison.std["test_accuracy"].tolist() == pytest.approx([0.25, 0.1767767])
    assert comparison.count["test_accuracy"].tolist() == [3, 2]
    assert comparison.difference["test_accuracy"].tolist() == [0, -0.375]


@pytest.mark.parametrize("tags", [{"git_commit": "b" * 40}, {"data_digest": "other"}, {"git_dirty": "true"}])
def test_runs_of_other_code_or_data_form_another_group(tags):
    here = {"git_commit": "a" * 40, "data_digest": "one", "git_dirty": "false"}
    runs = [a_run(1, {"seed": "0"}, {"loss": 1}, here), a_run(2, {"seed": "1"}, {"loss": 1}, here | tags)]
    assert len(compare_runs(runs, group_by="seed").groups) == 2


def test_parameters_without_effect_do_not_split_a_group():
    runs = [a_run(i, {"seed": str(i), "tracking.run_name": str(i)}, {"loss": i}) for i in range(3)]
    assert len(compare_runs(runs, group_by="seed").groups) == 1


def test_unfinished_runs_are_left_out_of_means():
    killed = a_run(9, {"model.dropout": "0", "seed": "9", "model.name": "mlp"}, {"test_accuracy": 0.0}, status="KILLED")
    comparison = compare_runs([*over_seeds(_0=[0.5, 0.75]), killed], group_by="seed")
    assert comparison.left_out == [killed]
    assert comparison.mean["test_accuracy"].tolist() == [0.625]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"metric": "test_acuracy"},
            "No run has the metric 'test_acuracy' (did you mean 'test_accuracy'?). Choices: test_accuracy.",
        ),
        (
            {"group_by": "sed"},
            "No run has the parameter 'sed' (did you mean 'seed'?). Choices: model.dropout, model.name, seed.",
        ),
    ],
)
def test_unknown_metric_or_parameter_is_refused_with_the_choices(arguments, message):
    with pytest.raises(ComparisonError) as error:
        compare_runs(over_seeds(_0=[0.5]), **arguments)
    assert str(error.value) == message


def test_comparison_needs_runs_and_grouping_needs_finished_ones():
    with pytest.raises(ComparisonError, match="There are no runs to compare"):
        compare_runs([])
    with pytest.raises(ComparisonError, match="None of the 1 runs is finished"):
        compare_runs([a_run(1, {"seed": "0"}, status="RUNNING")], group_by="seed")


# --- code and data --------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """Make a git repository with two commits; the second changes model.py."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    commits = []
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    for text in ("one\n", "two\n"):
        (tmp_path / "model.py").write_text(text)
        subprocess.run([*git, "add", "-A"], cwd=tmp_path, check=True)
        subprocess.run([*git, "commit", "-qm", text], cwd=tmp_path, check=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
        commits.append(done.stdout.strip())
    return tmp_path, *commits


def test_changed_files_between_the_commits_of_runs_are_shown(repository, monkeypatch):
    folder, first, second = repository
    runs = [a_run(number, tags={"git_commit": commit}) for number, commit in ((3, second), (2, second), (1, first))]
    ((command, files),) = find_code_changes(runs, folder).items()
    assert command == f"git diff {first[:12]} {second[:12]}"
    assert [line.strip() for line in files.splitlines()] == [
        "model.py | 2 +-",
        "1 file changed, 1 insertion(+), 1 deletion(-)",
    ]
    of_this_repository = partial(find_code_changes, project=folder)
    for module in (comparison_module, views):
        monkeypatch.setattr(module, "find_code_changes", of_this_repository)
    comparison = compare_runs(runs)
    assert {f"    {line.strip()}" for line in files.splitlines()} <= set(comparison_notes(comparison))
    (shown,) = json.loads(comparison_json(comparison))["code_changes"]
    assert shown == {"command": command, "files": files}


def test_code_of_another_repository_is_noted_with_the_command_only():
    first, second = "a" * 40, "c" * 40
    tags = [{"git_commit": second}, {"git_commit": second}, {"mlflow.source.git.commit": first}]
    comparison = compare_runs([a_run(3 - i, tags=tags[i]) for i in range(3)])
    notes = comparison_notes(comparison)
    assert "The code differs: cccccccccccc (2 runs), aaaaaaaaaaaa (1 run)." in notes
    assert "  git diff aaaaaaaaaaaa cccccccccccc" in notes
    assert "    these commits are not both in this repository" in notes
    tree = json.loads(comparison_json(comparison))
    assert tree["code_differs"]
    assert tree["code_changes"] == [{"command": "git diff aaaaaaaaaaaa cccccccccccc", "files": ""}]


def test_tag_that_is_not_a_commit_never_reaches_git(repository):
    folder, first, _ = repository
    written = folder / "written"
    runs = [a_run(1, tags={"git_commit": first}), a_run(2, tags={"git_commit": f"--output={written}"})]
    assert find_code_changes(runs, folder) == {}
    assert not written.exists()


def test_uncommitted_changes_and_differing_data_are_noted():
    runs = [
        a_run(1, tags={"git_commit": "a" * 40, "git_dirty": "true", "data_digest": "d1"}),
        a_run(2, tags={"git_commit": "a" * 40, "git_dirty": "false"}),
    ]
    comparison = compare_runs(runs)
    notes = "\n".join(comparison_notes(comparison))
    assert "1 of 2 runs had uncommitted changes (+), so runs of the same commit may differ in code too:" in notes
    assert "The data differs: d1 (1 run), not recorded (1 run)." in notes
    assert [line.split()[1:] for line in text_of(comparison)] == [
        ["name", "code", "data"],
        ["run-1", "aaaaaaaa+", "d1"],
        ["run-2", "aaaaaaaa", "-"],
    ]


def test_equal_code_and_data_are_not_noted():
    tags = {"git_commit": "a" * 40, "git_dirty": "false", "data_digest": "d"}
    notes = comparison_notes(compare_runs([a_run(1, {"seed": "0"}, tags=tags), a_run(2, {"seed": "1"}, tags=tags)]))
    assert notes == []


# --- stores ---------------------------------------------------------------------------------------------------------


def log(client, experiment, name, params, metrics, status="FINISHED", tags=None):
    from mlflow.entities import Metric, Param

    run = client.create_run(experiment, run_name=name, tags=tags)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(key, value, 1, 1) for key, value in metrics.items()],
        params=[Param(key, value) for key, value in params.items()],
        synchronous=True,
    )
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return run.info.run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Make a store with a sweep of two runs, its parent, a failed run, and an older experiment of other code."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    client = connect_store(uri)
    foreign, ours = client.create_experiment("sklearn"), client.create_experiment("digits")
    tags = {"fingerprint": "of this project"}
    ids = {"forest": log(client, foreign, "forest", {"depth": "3"}, {"rmse": 0.5, "r2": 0.8}, tags=tags)}
    ids["parent"] = log(client, ours, "parent", {}, {"test_accuracy": 0.875}, tags={"sweep": "seed=0,1"})
    child = {"mlflow.parentRunId": ids["parent"]}
    ids["zero"] = log(client, ours, "zero", {"seed": "0", "epochs": "2"}, {"test_accuracy": 0.75}, tags=child)
    ids["one"] = log(client, ours, "one", {"seed": "1", "epochs": "2"}, {"test_accuracy": 0.875}, tags=child)
    ids["failed"] = log(client, ours, "failed", {"seed": "2", "epochs": "2"}, {"loss": 3.0}, "FAILED")
    return uri, ids


@pytest.fixture
def command(capsys, monkeypatch):
    """Return a function that runs the script in this process and returns its exit code, stdout and stderr."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
        code = main()
        return code, *capsys.readouterr()

    return run


def test_latest_experiment_is_shown_by_default_with_hints_on_stderr(store, tmp_path):
    uri, ids = store
    command = [sys.executable, str(SCRIPT), "--uri", uri, "--plot", str(tmp_path / "plot.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[0] == ["run", "name", "status", "seed", "test_accuracy", "loss"]
    assert table[1] == [ids["one"][:8], "one", "FINISHED", "1", "0.875", "(best)", "-"]
    assert table[2] == [ids["zero"][:8], "zero", "FINISHED", "0", "0.75", "(-0.12)", "-"]
    assert table[3] == [ids["failed"][:8], "failed", "FAILED", "2", "-", "3", "(best)"]
    assert "Best first by test_accuracy: higher is better." in done.stdout
    assert "Experiment 'digits': 3 runs; 1 left out that only hold sweeps together." in done.stderr
    assert "Next:" in done.stderr
    assert "Next:" not in done.stdout
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_found_by_prefixes_of_ids_across_experiments(store):
    uri, ids = store
    client = open_existing_store(uri)
    wanted = [ids["forest"][:12], ids["one"], ids["one"][:20], ids["zero"].upper()]
    assert [run.name for run in find_runs(client, wanted)] == ["forest", "one", "zero"]


def test_sweep_selects_its_children_and_experiment_all_of_its_runs(store):
    uri, ids = store
    client = open_existing_store(uri)
    assert {run.name for run in sweep_children(client, ids["parent"][:10])} == {"zero", "one"}
    name, found, older = experiment_runs(client, newest=2)
    assert (name, len(found), older) == ("digits", 2, True)
    name, found, older = experiment_runs(client, "sklearn")
    assert (name, [run.metrics for run in found], older) == ("sklearn", [{"rmse": 0.5, "r2": 0.8}], False)


def test_sweep_is_ranked_by_its_objective_unless_another_is_given(tmp_path, command):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect_store(uri)
    experiment = client.create_experiment("digits")
    parent = log(client, experiment, "parent", {}, {}, tags={"sweep": "digest", "objective": "val_loss min"})
    for seed, loss in (("0", 0.5), ("1", 0.25)):
        log(
            client,
            experiment,
            f"seed {seed}",
            {"seed": seed},
            {"val_loss": loss, "test_accuracy": loss},
            tags={"mlflow.parentRunId": parent},
        )
    code, out, err = command("--sweep", parent, "--uri", uri, "--format", "csv")
    assert code == 0, err
    assert "Best first by val_loss: lower is better." in err
    assert "seed 1" in out.splitlines()[1]
    _, _, err = command("--sweep", parent, "--uri", uri, "--format", "csv", "--metric", "test_accuracy")
    assert "Best first by test_accuracy: higher is better." in err


def test_run_without_a_live_process_is_shown_as_killed(tmp_path):
    client = connect_store(f"sqlite:///{tmp_path}/mlflow.db")
    gone = {**process_tags(), "process.start_time": "1"}
    log(client, "0", "gone", {}, {"loss": 1.0}, "RUNNING", gone)
    log(client, "0", "alive", {}, {"loss": 1.0}, "RUNNING", process_tags())
    log(client, "0", "foreign", {}, {"loss": 1.0}, "RUNNING")
    _, found, _ = experiment_runs(client)
    assert {run.name: run.status for run in found} == {"gone": "KILLED", "alive": "RUNNING", "foreign": "RUNNING"}


def test_unknown_and_ambiguous_ids_and_runs_that_are_not_sweeps_are_refused(store):
    uri, ids = store
    client = open_existing_store(uri)
    for unknown in ("f" * 32, "0" * 31, "no-id", "a%", "' OR 1=1", ""):
        with pytest.raises(StoreError, match=r"There is no run .*Give the id of a run, 32 hex digits"):
            find_runs(client, [unknown])
    with pytest.raises(StoreError, match=r"is not a sweep, or it has no runs yet"):
        sweep_children(client, ids["one"])
    beginnings = [run_id[0] for run_id in ids.values()]
    shared = next((b for b in beginnings if beginnings.count(b) > 1), None)
    if shared:
        with pytest.raises(
            StoreError, match=f"The run id '{shared}' is ambiguous: it is a prefix of .* Give more digits"
        ):
            find_runs(client, [shared])


def test_mistakes_end_in_one_line_and_exit_code_2(store, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store[0])
    cases = {
        ("abcdef123456",): "There is no run 'abcdef123456' in sqlite:///",
        ("--experiment", "digit"): "There is no experiment 'digit' in the store. Choices: Default, digits, sklearn.",
        ("--metric", "test_acc"): "No run has the metric 'test_acc' (did you mean 'test_accuracy'?)",
        ("--experiment", "Default"): "The experiment 'Default' has no runs. Make one: python run.py",
        ("--plot", "plot.pdf"): "--plot writes a PNG: the name must end in .png, and is plot.pdf.",
        ("--plot", "no/such/plot.png"): "--plot cannot write no/such/plot.png: No such file or directory.",
        ("--uri", f"sqlite:///{tmp_path}/none.db"): f"There is no tracking store sqlite:///{tmp_path}/none.db yet",
        ("--uri", "http://127.0.0.1:9"): "The tracking server http://127.0.0.1:9 does not answer",
    }
    for arguments, message in cases.items():
        code, data, said = command(*arguments)
        *_, last = said.splitlines()
        assert (code, data) == (2, ""), arguments
        assert last.startswith(message), arguments
    assert list(tmp_path.iterdir()) == []


def test_csv_and_json_stand_alone_on_stdout(store, command):
    uri, ids = store
    _, text, _ = command("--uri", uri, "--sweep", ids["parent"], "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["name"], row["seed"], row["test_accuracy"]) for row in rows] == [
        ("one", "1", "0.875"),
        ("zero", "0", "0.75"),
    ]
    _, text, _ = command("--uri", uri, "--sweep", ids["parent"], "--group-by", "seed", "--format", "json")
    assert json.loads(text)["groups"][0]["metrics"]["test_accuracy"]["mean"] == 0.8125


def test_next_command_names_the_given_store(store, command):
    uri, ids = store
    _, _, said = command("--uri", uri, "--experiment", "sklearn")
    assert "Experiment 'sklearn': 1 run.\n" in said
    assert f"  python scripts/reproduce.py {ids['forest'][:12]} --uri {uri}  repeat the best run\n" in said


def test_table_fits_the_width_of_a_terminal(store):
    uri, _ = store
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "50", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--uri", uri], stdout=child, stderr=subprocess.PIPE, env=environment
    )
    os.close(child)
    with os.fdopen(parent, "rb") as terminal:
        text = terminal.read1(100_000).decode()
    assert done.returncode == 0
    assert "test_accuracy" in text
    assert "No room for loss: --format csv has all." in done.stderr.decode()


def test_closed_pipe_is_not_an_error(store):
    uri, _ = store
    done = subprocess.run(
        f'"{sys.executable}" "{SCRIPT}" --uri "{uri}" --format json | head -c 1; echo " ${{PIPESTATUS[0]}}"',
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "{ 0\n"
    assert "Error" not in done.stderr


def test_compare_help_loads_no_heavy_module():
    code = (
        f"import runpy, sys; sys.argv = ['compare.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({'mlflow', 'pandas', 'matplotlib', 'tensorflow', 'rich', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--group-by" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def copy_run(database, run_id, count):
    """Copy a run in the store's tables; each copy has its own id, a seed and a learning rate."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.row_factory = sqlite3.Row
        for table in ("runs", "params", "latest_metrics", "metrics", "tags"):
            for row in connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", [run_id]).fetchall():
                copies = [{**row, "run_uuid": f"{number:032x}"} for number in range(count)]
                for number, copy in enumerate(copies):
                    if copy.get("key") in ("seed", "optimizer.learning_rate"):
                        copy["value"] = str(number % 5) if copy["key"] == "seed" else str(number // 5 / 1000)
                marks = ", ".join(f":{column}" for column in row.keys())  # noqa: SIM118
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", copies)


def test_a_thousand_runs_among_a_thousand_experiments_are_compared_in_seconds(tmp_path, command):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect_store(uri)
    experiment = client.create_experiment("large")
    params = {f"group.parameter_{n}": "some value" for n in range(30)}
    metrics = {f"metric_{n}_loss": 0.5 for n in range(12)}
    tags = {f"tag_{n}": "some value" for n in range(16)}
    run_id = log(
        client, experiment, "a run", {**params, "seed": "0", "optimizer.learning_rate": "1"}, metrics, tags=tags
    )
    copy_run(tmp_path / "mlflow.db", run_id, 1000)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        later = [(number, f"later {number}", 2**41 + number) for number in range(100, 1101)]
        connection.executemany(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage, creation_time, last_update_time, workspace)"
            " VALUES (?, ?, 'active', ?3, ?3, 'default')", later,
        )  # fmt: skip
    every_id = [f"{number:032x}" for number in range(1000)]
    for arguments, lines in (
        (["--experiment", "large"], 1001),
        (["--experiment", "large", "--group-by", "seed"], 201),
        (every_id, 1000),
    ):
        started = time.process_time()
        code, text, _ = command("--uri", uri, "--format", "csv", *arguments)
        assert time.process_time() - started < 10  # 1 to 2 s; this process's own time, as others may load the machine
        assert (code, len(text.splitlines())) == (0, 1 + lines)
