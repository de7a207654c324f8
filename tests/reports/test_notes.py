"""The notes of runs on their MLflow pages."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_report import answered, classified, fitted

from experiments.config.composition import compose_job
from experiments.data.datasets import Split
from experiments.formatting import escape_markdown
from experiments.reports.notes import run_note, unfinished_note
from experiments.reports.report import final_metrics


def test_note_of_a_classification():
    targets = classified().dataset.test.targets
    wrong = int(targets[0])
    results = answered((wrong + 1) % 10)
    note = run_note(results, final_metrics(results), ["data=digits", "model.units=[64]"], "1234abcd")
    of_class = int((targets == wrong).sum())
    assert note.split("\n\n") == [
        "**Test accuracy 99.72%** (1 of 360 wrong) after 3 epochs in 1.0 s. Best validation accuracy 70.00%, in"
        " epoch 2.",
        "**mlp** with 9,610 weights, trained on 1,287 examples of **digits** (150 held out for validation) with adam,"
        " learning rate 0.001, batch size 32, seed 0. The test digits were written by other people than the training"
        " digits, which makes them harder.",
        "Differs from the defaults: `data: mnist -> digits`.",
        "Worst classes:",
        f"- **{wrong}**: 1 of {of_class} wrong ({1 / of_class:.2%}), most often taken for {(wrong + 1) % 10} (1 time)",
        "```\n# repeat\npython run.py data=digits 'model.units=[64]'\n"
        "# resume\npython run.py resume=1234abcd\n"
        "# reproduce\npython scripts/reproduce.py 1234abcd\n"
        "# compare\npython scripts/compare.py\n"
        "# evaluate\npython scripts/evaluate.py 1234abcd\n"
        "# browse\nmake ui\n```",
        "![figures/01_learning_curves.png](get-artifact?path=figures/01_learning_curves.png&run_uuid=1234abcd)",
        "![figures/02_confusion_matrix.png](get-artifact?path=figures/02_confusion_matrix.png&run_uuid=1234abcd)",
        "![figures/03_mistakes.png](get-artifact?path=figures/03_mistakes.png&run_uuid=1234abcd)",
    ]


def test_class_names_are_escaped_in_the_note():
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


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([20, 1] + [5] * 8, ""),
        ([21, 1] + [5] * 8, " The classes are not balanced: **0** has 21 training images, **1** has 1."),
        ([9, 0] + [9] * 8, " Class without a training image: **1**."),
        (
            [0, 0, 0, 900, 9] + [100] * 5,
            " Classes without a training image: **0**, **1**, **2**. The classes are not balanced: **3** has 900"
            " training images, **4** has 9.",
        ),
    ],
)
def test_note_says_which_classes_have_no_training_image_or_very_few(counts, told):
    results = answered()
    targets = np.repeat(np.arange(10, dtype=np.int32), counts)
    train = Split(np.zeros((len(targets), 8, 8), np.uint8), targets)
    results = replace(results, dataset=replace(results.dataset, train=train))
    note = run_note(results, final_metrics(results), [], "1234abcd")
    assert f"than the training digits, which makes them harder.{told}\n" in note


def test_an_override_cannot_leave_the_block_of_commands():
    results = classified()
    note = unfinished_note(results.config, results.dataset, results, ["tracking.run_name='a\n```\n<b>'"], "1")
    assert "\n````\n# repeat\n" in note
    assert note.endswith("\n````")


@pytest.mark.parametrize("name", ["&lt;b&gt;", "~~a~~", "[a](b)", "a|b"])
def test_markdown_shows_a_name_as_it_is(name):
    assert re.sub(r"\\(?=[&<>~|\[\]])", "", escape_markdown(name)) == name
    assert not re.search(r"(?<!\\)[&<>~|\[\]]", escape_markdown(name))


def test_note_without_figures_or_mistakes_shows_neither():
    results = replace(answered(), config=compose_job(["data=digits", "report.figures=none"]))
    note = run_note(results, final_metrics(results), [], "1234abcd")
    assert "![" not in note
    assert "Worst" not in note
    assert note.startswith("**Test accuracy 100.00%** (0 of 360 wrong)")


def test_note_of_an_unfinished_run_says_so_and_how_to_resume_it():
    results = classified()
    about = unfinished_note(results.config, results.dataset, results, ["data=digits"], "1234abcd")
    assert about.startswith("**Not finished.**\n\n**mlp** with 9,610 weights")
    assert "python run.py resume=1234abcd\n" in about


def test_note_on_the_single_neuron_explains_its_weight():
    results = fitted()
    note = run_note(results, final_metrics(results), ["experiment=single_neuron"], "1234abcd")
    assert note.startswith("**Test mean absolute error ")
    assert "Learned weight **0.5000**. Learned bias **0.2500**." in note
    assert "Why the weight is not 0.8" in note
    assert "digits" not in note
    assert "0.60 to 0.64 and 0.115 to 0.129" in note
    assert "0.977" in note
    assert "-0.036" in note


@pytest.mark.parametrize("override", ["training.epochs=51", "model.activation=linear", "optimizer.beta_1=0.8"])
def test_note_on_another_neuron_makes_no_claim_about_its_weight(override):
    results = fitted(override)
    note = run_note(results, final_metrics(results), [], "1234abcd")
    assert "0.977" not in note
    assert "The points lie around y = 0.8 x" in note
