"""The jobs that a sweep's command describes, and their names."""

import re

import pytest
from mlflow import MlflowClient

from experiments.config.identity import identity_tags
from experiments.config.sweep_composition import BasicSettings, SearchSettings, compose_sweep
from experiments.errors import ConfigError
from experiments.sweeps.plan import SweepPlan, job_outcomes, plan_jobs, plan_sweep
from experiments.sweeps.search import check_search
from experiments.tracking.run import open_run
from experiments.tracking.store import connect_store


def planned(*overrides: str) -> SweepPlan:
    small = ["data=digits", "training.epochs=1", "tracking.uri=sqlite:////nowhere/mlflow.db"]
    return plan_sweep(compose_sweep([*small, *overrides]))


@pytest.mark.parametrize(
    ("swept", "names"),
    [
        (["model.dropout=0.1,0.3", "seed=0,1"], ["0.1 dropout, seed 0", "0.1 dropout, seed 1", "0.3 dropout, seed 0"]),
        (["optimizer=adam,sgd", "optimizer.learning_rate=1e-3"], ["adam", "sgd"]),
        (["model.units=[64],[128,64]"], ["[64] units", "[128,64] units"]),
        (["seed=range(3)"], ["seed 0", "seed 1", "seed 2"]),
        (["seed=choice(5,7)"], ["seed 5", "seed 7"]),
        (["seed=4"], ["digits epochs=1 seed=4"]),
        (["model.dropout=0.4", "model.dropout=0.1,0.3"], ["0.1 dropout", "0.3 dropout"]),
        (["+hydra.sweeper.params={seed:'1,2'}"], ["seed 1", "seed 2"]),
    ],
)
def test_jobs_are_named_by_what_differs_value_first(swept: list[str], names: list[str]) -> None:
    jobs = planned(*swept).jobs
    assert [job.name for job in jobs][: len(names)] == names
    assert [job.config.tracking.run_name for job in jobs] == [job.name for job in jobs]


def test_jobs_with_long_values_have_short_names_that_differ() -> None:
    swept = (f"[{','.join(['8'] * 50)},{last}]" for last in (1, 2))
    first, second = (job.name for job in planned(f"model.units={','.join(swept)}", "model.dropout=0,0.5").jobs[::2])
    assert re.match(r"\[8,8,8,8,.*\) units, 0 dropout$", first)
    assert first != second
    assert len(first) < 100


ZIPPED = ["sweep.zip=[model.units,model.dropout]", "model.units=[64],[128,64]"]


def test_the_values_of_zipped_keys_go_together_and_combine_with_the_others() -> None:
    pairs = planned(*ZIPPED, "model.dropout=0.1,0.3").jobs
    assert [job.name for job in pairs] == ["[64] units, 0.1 dropout", "[128,64] units, 0.3 dropout"]
    assert not any("zip" in override for job in pairs for override in job.overrides)
    by_seed = planned(*ZIPPED, "model.dropout=choice(0.1,0.3)", "seed=range(2)").jobs
    assert [job.name[-19:] for job in by_seed] == [f"{d} dropout, seed {s}" for d in (0.1, 0.3) for s in (0, 1)]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*ZIPPED, "model.dropout=0.1,0.2,0.3"], "so each key needs as many: model.units has 2, model.dropout has 3."),
        (
            [*ZIPPED, "seed=0,1"],
            "sweep.zip names 'model.dropout', which this command does not give several",
        ),
        (["sweep.zip=seed", "seed=0,1"], "sweep.zip=seed is not a list of two or more keys: sweep.zip=[seed,KEY]."),
        (["sweep.zip=[seed,seed]", "seed=0,1"], "is not a list of two or more keys: sweep.zip=[seed,KEY]."),
        (
            ["sweep.zip=[model.units,model.dropout]", "model.units=1,2"],
            "sweep.zip names 'model.dropout', which this command does not give several values. Keys that have several:",
        ),
        (["sweep.zip=[seed,seed],[seed]", "seed=0,1"], "'sweep.zip=[seed,seed],[seed]' names several values."),
        (["sweep.minutes=1,2", "seed=0,1"], "'sweep.minutes=1,2' names several values. Give sweep.minutes one value."),
        (["sweep.zip=[sed,model.dropout]", "seed=0,1", "model.dropout=0,0.1"], "(did you mean 'seed'?)"),
        (["hydra/sweeper=optuna", *ZIPPED, "model.dropout=0,0.1"], "a search draws its own. Leave it out."),
    ],
)
def test_refuses_to_zip_what_does_not_fit(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose_sweep(overrides)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed=range(0,1,0)", "has no values that can be listed. Name the values: seed=A,B,C."),
        ("model.dropout=range(0,1,nan)", "has no values that can be listed. Name the values: model.dropout=A,B,C."),
        ("seed=range(1000000000)", "makes more than 10,000 jobs. Name fewer values, or let a search draw them"),
        ("model.dropout=range(0,inf,1)", "makes more than 10,000 jobs."),
        ("model.units=range(1,5002)", "makes more than 10,000 jobs."),
    ],
)
def test_values_that_cannot_be_listed_are_refused_soon(override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{override!r} {problem}")):
        compose_sweep(["model.activation=relu,elu", override])


def test_a_glob_sweeps_experiments() -> None:
    jobs = plan_sweep(compose_sweep(["experiment=glob(single_*)", "tracking.uri=sqlite:////nowhere/mlflow.db"])).jobs
    assert [job.name for job in jobs] == ["single_neuron"]


def test_warns_when_the_test_set_ranks_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    planned("data.validation=0", "seed=0,1").show()
    assert "Warning: test_accuracy ranks these runs, so the value of the best one is" in capsys.readouterr().err


def test_the_digest_depends_on_the_jobs_and_not_on_reports_or_how_they_run() -> None:
    one = planned("seed=0,1").composed.digest
    assert (
        planned("seed=0,1", "report.style=dark", "sweep.retries=2", "hydra.launcher.workers=1").composed.digest == one
    )
    assert planned("seed=1,0").composed.digest == one
    assert planned("seed=0,2").composed.digest != one
    assert planned("seed=0,1", "model.dropout=0.5").composed.digest != one


def test_the_reason_of_a_failed_job_is_bounded_and_clean(uri: str) -> None:
    (job,) = plan_jobs(compose_sweep(["data=digits", f"tracking.uri={uri}"]).jobs, [])
    tags = {"mlflow.parentRunId": "f" * 32, "fingerprint": job.fingerprint}
    with open_run(uri, "digits", "job", {}, tags) as run:
        pass
    MlflowClient(uri).set_tag(run.run_id, "end_reason", "no\x1b[2J" + "x" * 5000)  # as any program may
    (outcome,) = job_outcomes([job], "f" * 32)
    assert outcome.reason.startswith("no\ufffd[2Jx")
    assert len(outcome.reason) <= 300


# As recorded by earlier versions: an unchanged command must find its old parent.
RECORDED_DIGESTS = {
    "data=digits seed=0,1": "7523e0404e4063f55a72c39c4c0f8a5d11316069585106959c172d9e13ad0684",
    "model.dropout=0.1,0.3 seed=0,1": "56ae0e5aa240f35b77694ba4d61d6e290abc49d204ec1f0aeeac8dadfbb1154e",
    "hydra/sweeper=optuna search=mlp": "95802c6270bd76ccabfd08fcf6b1fe1380acdb502bdf9f5257ce537a4110359c",
}


@pytest.mark.parametrize("command_line", RECORDED_DIGESTS)
def test_the_digest_of_an_unchanged_command_equals_the_recorded_one(command_line: str) -> None:
    composed = compose_sweep(command_line.split())
    if isinstance(composed.sweeper, SearchSettings):
        composed = check_search(composed)
    assert composed.digest == RECORDED_DIGESTS[command_line]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ""),
        ({"code_digest": "older"}, "1 finished run was made by other code: it stays, and every job runs anew.\n"),
        ({"versions": "keras==1"}, "1 finished run was made by other package versions: it stays, and every job runs"),
        ({"data_digest": "older"}, "1 finished run was made from other data: it stays, and every job runs anew.\n"),
    ],
)
def test_says_why_every_job_of_an_old_sweep_runs_anew(
    changed: dict[str, str], expected: str, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["data=digits", "seed=0,1", f"tracking.uri={uri}"]
    composed = compose_sweep(overrides)
    experiment = composed.jobs[0].config.tracking.experiment
    with open_run(uri, experiment, "sweep", {}, {"sweep": composed.digest}) as parent:
        pass
    digest = plan_sweep(composed).jobs[0].data_digest
    identity = {**identity_tags(composed.jobs[0].config, digest), "fingerprint": "of another config", **changed}
    tags = {**identity, "mlflow.parentRunId": parent.run_id}
    with open_run(uri, experiment, "seed 0", {}, tags):
        pass
    plan = plan_sweep(composed)
    plan.show()
    assert plan.parent.run_id == parent.run_id  # type: ignore[union-attr]
    out = capsys.readouterr().out
    assert expected in out
    assert ("runs anew" in out) == bool(expected)
    assert out.endswith("2 to run.\n")


def test_says_how_to_restore_a_sweep_or_runs_of_it_that_were_deleted(uri: str) -> None:
    composed = compose_sweep(["data=digits", "seed=0,1", f"tracking.uri={uri}"])
    plan, client = plan_sweep(composed), connect_store(uri)
    with open_run(uri, "digits", "seed", {}, {"sweep": composed.digest, "sweep_family": plan.family}) as parent:
        pass
    for job in plan.jobs:
        tags = {**identity_tags(job.config, job.data_digest), "mlflow.parentRunId": parent.run_id}
        with open_run(uri, "digits", job.name, {}, tags) as child:
            pass
    restore = f"was deleted. To restore it: MLFLOW_TRACKING_URI={uri} mlflow"
    assert plan_sweep(composed).is_finished
    client.delete_run(child.run_id)
    of_run = f"Run {child.run_id} (seed 1) {restore} runs restore --run-id {child.run_id}"
    assert plan_sweep(composed).notice == f"Deleted runs of this sweep do not count. {of_run}"
    client.delete_run(parent.run_id)
    of_parent = f"Run {parent.run_id} (seed) {restore} runs restore --run-id {parent.run_id}"
    assert plan_sweep(composed).notice == f"Every job runs anew, as this sweep was deleted. {of_parent}"
    client.restore_run(parent.run_id)
    client.restore_run(child.run_id)
    assert plan_sweep(composed).is_finished


def test_says_where_the_sweep_is_from_which_a_new_one_differs(uri: str) -> None:
    composed = compose_sweep(["data=digits", "seed=0,1", f"tracking.uri={uri}"])
    with open_run(uri, "digits", "seed", {}, {"sweep_family": plan_sweep(composed).family}) as parent:
        pass
    like = f"This is a new sweep, as it differs from seed ({parent.run_id}): other values of seed."
    assert plan_sweep(composed).notice == like
    connect_store(uri).rename_experiment(parent.experiment_id, "renamed")
    there = " That is in the experiment 'renamed' now. To go there too: tracking.experiment=NAME"
    assert plan_sweep(composed).notice == like + there


def test_children_have_light_figures_unless_the_command_chooses() -> None:
    assert [job.config.report.figures for job in planned("seed=0,1").jobs] == ["light", "light"]
    assert [job.config.report.figures for job in planned("seed=0,1", "report.figures=none").jobs] == ["none", "none"]


def test_jobs_that_are_the_same_experiment_are_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    planned("report.style=light,dark", "seed=0,1").show()
    assert "2 to run, 2 the same as another." in capsys.readouterr().out


def test_the_jobs_of_a_sweep_go_to_one_store() -> None:
    with pytest.raises(ConfigError, match=r"The jobs of this sweep go to several stores\. Give all of them the same"):
        planned("tracking.uri=sqlite:////a/mlflow.db,sqlite:////b/mlflow.db")


@pytest.mark.parametrize("override", ["experiment=glob(zzz*)", "seed=range(0)"])
def test_refuses_a_sweep_over_no_values(override: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{override!r} matches no value, so there is nothing to run.")):
        planned(override)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("hydra.sweeper.max_batch_size=2", r"unknown key 'hydra\.sweeper\.max_batch_size'\. Keys of .*: params"),
        ("hydra.launcher.wrkers=2", r"unknown key 'hydra\.launcher\.wrkers' \(did you mean '.*\.workers'\?\)"),
        ("hydra.launcher.workers=0", r"hydra\.launcher\.workers=0 is not allowed: processes, from 1 on, or null"),
        ("hydra.launcher.workers=two", r"hydra\.launcher\.workers=two is not allowed"),
        ("hydra.launcher.workers=1,2", r"names several values\. Give hydra\.launcher\.workers one value"),
        ("hydra.launcher.timeout_minutes=0", r"timeout_minutes=0 is not allowed: minutes, greater than 0, or null"),
        ("hydra/launcher=joblib", r"hydra/launcher=joblib is not a choice\. Choices of hydra/launcher: basic, pool"),
        ("hydra/launcher='jobs'", r"hydra/launcher=jobs is not a choice\. Choices of hydra/launcher: basic, pool"),
        ("~hydra/launcher", r"'~hydra/launcher' is not supported: a setting of Hydra cannot be removed\. Leave it out"),
        ("~hydra.sweeper", r"'~hydra\.sweeper' is not supported: a setting of Hydra cannot be removed\. Leave it out"),
        ("hydra/launcher=pool,basic", r"names several values\. Give hydra/launcher one value"),
        ("hydra/sweeper=ax", r"hydra/sweeper=ax is not a choice\. Choices of hydra/sweeper: optuna, product"),
        ("hydra.sweep.dir=here", r"hydra\.sweep\.dir is not supported: it would have no effect\. Choices: hydra"),
        ("hydra.sweeper.params=5", r"hydra\.sweeper\.params=5 is not allowed: what to sweep over, as \{KEY:'A,B'\}"),
        ("+hydra.sweeper.parms={}", r"unknown key 'hydra\.sweeper\.parms' \(did you mean 'hydra\.sweeper\.params'\?\)"),
    ],
)
def test_refuses_settings_of_hydra_before_a_parent_run_is_made(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        planned("seed=0,1", setting)


def test_the_launcher_may_be_quoted() -> None:
    assert planned("seed=0,1", "hydra/launcher='basic'").composed.launcher == BasicSettings()


def test_a_range_needs_a_search() -> None:
    with pytest.raises(ConfigError, match=r"is a range to search in\. Add hydra/sweeper=optuna, or name the values"):
        planned("model.dropout=interval(0,0.5)")
