"""A run in words."""

import shlex
from dataclasses import replace

import pytest
import yaml
from test_report import answered, classified, fitted

from experiments.config.choices import CONFIG_FOLDER, group_names
from experiments.config.composition import compose_job
from experiments.reports.report import final_metrics
from experiments.reports.summary import (
    differences_from_defaults,
    next_commands,
    print_summary,
    run_command_line,
    run_name,
    run_note,
    unfinished_note,
)
from experiments.tracking.run import TrackedRun


def config(*overrides):
    return compose_job(list(overrides))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "mlp mnist"),
        (["model.dropout=0.3"], "dropout=0.3"),
        (["model=cnn", "training.epochs=3", "seed=7"], "cnn epochs=3 seed=7"),
        (["experiment=single_neuron"], "single_neuron"),
        (["data=digits", "+data.path=x", "tracking.experiment=a", "report.figures=none"], "digits"),
        (["model.units=[64,32]"], "units=[64,32]"),
        (["model.units.0=64"], "units.0=64"),
        (["tracking.uri=sqlite:///x.db"], "mlp mnist"),
    ],
)
def test_a_run_is_named_by_what_differs(overrides, name):
    assert run_name(config(), overrides) == name


def test_the_command_is_quoted_for_a_shell():
    overrides = ["model.units=[64,32]", 'tracking.run_name="a b"', "optimizer={name: sgd}"]
    assert shlex.split(run_command_line(overrides)) == ["python", "run.py", *overrides]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], []),
        (["model.dropout=0.3", "seed=1"], ["seed: 0 -> 1", "model.dropout: 0.2 -> 0.3"]),
        (["model.dropout=0.2"], []),
        (["data=digits"], ["data: mnist -> digits"]),
        (["data=digits", "data.validation=100"], ["data: mnist -> digits", "data.validation: 150 -> 100"]),
        (["model.units=[64, 32]"], ["model.units: [128] -> [64, 32]"]),
        (["model=cnn"], ["model: mlp -> cnn"]),
        (["optimizer=sgd", "optimizer.momentum=0.9"], ["optimizer: adam -> sgd", "optimizer.momentum: 0.0 -> 0.9"]),
        (["training.threads=7"], ["training.threads: 1 -> 7"]),
        (["experiment=walkthrough"], ["data.validation: 5000 -> 0"]),
        (["tracking.experiment=x", "tracking.log_model=false", "report.style=dark", "data.path=/x"], []),
        (
            ["experiment=single_neuron"],
            [
                "data: mnist -> linear",
                "model: mlp -> neuron",
                "training.epochs: 10 -> 50",
                "training.loss: sparse_categorical_crossentropy -> mean_squared_error",
            ],
        ),
    ],
)
def test_the_differences_are_those_to_the_defaults_of_the_choices(overrides, expected):
    assert differences_from_defaults(config(*overrides)) == expected


def test_a_long_value_is_cut():
    (difference,) = differences_from_defaults(config("data.checksums=null"))
    assert len(difference) < 100
    assert difference.endswith("… -> null")


def test_every_choice_bears_the_name_of_its_file():
    for group in set(group_names()) & {"data", "model", "optimizer", "schedule"}:
        for file in (CONFIG_FOLDER / group).glob("*.yaml"):
            assert yaml.safe_load(file.read_text())["name"] == file.stem


def test_the_note_of_a_classification():
    targets = classified().dataset.test.targets
    wrong = int(targets[0])
    results = answered((wrong + 1) % 10)
    note = run_note(results, final_metrics(results), ["data=digits", "model.units=[64]"], "1234abcd")
    of_class = int((targets == wrong).sum())
    assert note.split("\n\n") == [
        "**Test accuracy 99.72%** (1 of 360 wrong), best validation accuracy 70.00% in epoch 2, after 3 epochs in"
        " 1.0 s.",
        "**mlp** with 9,610 weights, trained on 1,287 examples of **digits** (150 held out for validation) with adam,"
        " learning rate 0.001, batch size 32, seed 0.",
        "Differs from the defaults: `data: mnist -> digits`.",
        "Worst classes:",
        f"- **{wrong}**: 1 of {of_class} wrong ({1 / of_class:.2%}), most often taken for {(wrong + 1) % 10} (1 time)",
        "```\n# repeat\npython run.py data=digits 'model.units=[64]'\n"
        "# resume\npython run.py resume=1234abcd\n"
        "# reproduce\npython scripts/reproduce.py 1234abcd\n"
        "# compare\npython scripts/compare.py\n"
        "# evaluate\npython scripts/evaluate.py 1234abcd\n"
        "# look\nmake ui\n```",
        "![figures/01_learning_curves.png](get-artifact?path=figures/01_learning_curves.png&run_uuid=1234abcd)",
        "![figures/02_confusion_matrix.png](get-artifact?path=figures/02_confusion_matrix.png&run_uuid=1234abcd)",
        "![figures/03_mistakes.png](get-artifact?path=figures/03_mistakes.png&run_uuid=1234abcd)",
    ]


def test_names_of_classes_are_text_in_the_note():
    names = ["`<img src=x onerror=alert(1)>`"] * 10
    results = answered((classified().dataset.test.targets[0] + 1) % 10)
    own = replace(results.config, data=replace(results.config.data, class_names=names))
    results = replace(results, config=own, dataset=replace(results.dataset, class_names=tuple(names)))
    note = run_note(results, final_metrics(results), [], "1234abcd")
    shown = r"\`\<img src=x onerror=alert(1)\>\`"
    assert f"- **{shown}**: 1 of" in note
    assert f"taken for {shown} (1 time)" in note
    assert "`data.class_names: [" in note
    assert "`<img" not in note.replace(shown, "")


def test_the_note_shows_only_figures_that_were_drawn_and_names_no_worst_class_where_all_is_right():
    results = replace(answered(), config=config("data=digits", "report.figures=none"))
    note = run_note(results, final_metrics(results), [], "1234abcd")
    assert "![" not in note
    assert "Worst" not in note
    assert note.startswith("**Test accuracy 100.00%** (0 of 360 wrong)")


def test_the_commands_name_the_store_without_its_password():
    uri = "tracking.uri=http://me:secret@example.org"
    found = next_commands(config(uri), [uri], "1234abcd")
    assert "secret" not in str(found)
    assert found["resume"] == "python run.py resume=1234abcd tracking.uri=http://example.org"
    assert found["compare"].endswith(" --uri http://example.org")
    assert found["evaluate"] == "python scripts/evaluate.py 1234abcd --uri http://example.org"
    assert found["reproduce"] == "python scripts/reproduce.py 1234abcd --uri http://example.org"


def test_a_password_in_the_address_of_the_store_is_not_printed(capsys):
    from mlflow import MlflowClient
    from mlflow.entities import Run, RunData, RunInfo

    info = RunInfo("1234abcd", "0", "bob", "FINISHED", 0, 0, "active", run_name="a run")
    uri = "http://bob:s3cret@example.org"
    run, results = TrackedRun(MlflowClient(uri), uri, Run(info, RunData())), classified()
    print_summary(results, final_metrics(results), run)
    printed = capsys.readouterr().out
    assert "\nRun a run (1234abcd) in http://example.org\n" in printed
    assert "s3cret" not in printed


def test_a_run_that_is_not_finished_says_so_and_how_to_resume_it():
    results = classified()
    about = unfinished_note(results.config, results.dataset, results.model, ["data=digits"], "1234abcd")
    assert about.startswith("**Not finished.**\n\n**mlp** with 9,610 weights")
    assert "python run.py resume=1234abcd\n" in about


def test_the_note_on_the_single_neuron_explains_its_weight():
    results = fitted()
    note = run_note(results, final_metrics(results), ["experiment=single_neuron"], "1234abcd")
    assert note.startswith("**Mean absolute error ")
    assert "learned weight **0.5000** and bias **0.2500**" in note
    assert "Why the weight is not 0.8" in note
    assert "0.60 to 0.64 and 0.115 to 0.129" in note
    assert "0.977" in note
    assert "-0.036" in note


@pytest.mark.parametrize("override", ["training.epochs=51", "model.activation=linear", "optimizer.beta_1=0.8"])
def test_with_other_settings_the_numbers_of_the_single_neuron_are_not_claimed(override):
    results = fitted(override)
    note = run_note(results, final_metrics(results), [], "1234abcd")
    assert "0.977" not in note
    assert "The points lie around y = 0.8 x" in note
