"""Published configs: run over seeds, resumed, and compared with their expected results."""

import fcntl
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT, command, start
from stores import runs

from experiments.commands.reproduce import print_outcome
from experiments.errors import ConfigError
from experiments.reproduction.published import (
    AS_PUBLISHED,
    TABLE_BEGIN,
    TABLE_END,
    PublishedConfig,
    PublishedOutcome,
    find_published,
    judge_published,
    published_expectations,
    show_mean,
    show_metric,
    version_changes,
    write_table,
)
from experiments.tracking.records import RunRecord

SCRIPT = "scripts/reproduce.py"
# A run on the bundled digits takes a second, for tests whose values do not matter.
DIGITS = ["data=digits", "training.epochs=2", "report.figures=none", "tracking.log_model=false"]
SHORTEST = ["walkthrough", "lecun1998_linear"]  # their shrunk versions take seconds


def finished(*values: float) -> list[RunRecord]:
    return [RunRecord("0" * 32, "", "FINISHED", 0, 60_000, {}, {"test_error_percent": v}, {}) for v in values]


def walkthrough(*overrides: str, quick: bool = False) -> PublishedConfig:
    given = ["expected.mean=2", "expected.tolerance=0.5", "expected.published=1.9", *overrides]
    return find_published("walkthrough", given, quick=quick)


# --- expected results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reproduced", "reached"),
    [
        ([2.0, 2.5], True, False),
        ([2.6], False, False),
        ([1.9], True, True),
        ([1.0, 1.25], False, True),  # better than published, but not the recorded result
    ],
)
def test_only_the_published_number_may_be_surpassed(values: list[float], reproduced: bool, reached: bool) -> None:
    outcome = judge_published(walkthrough(), finished(*values))
    assert outcome is not None
    assert (outcome.reproduced, outcome.reached, outcome.values) == (reproduced, reached, values)


def test_prints_published_recorded_and_new_results(capsys: pytest.CaptureFixture[str]) -> None:
    config = walkthrough("expected.seeds=[7]")
    for value, end in (
        (
            2.0,
            "is not reached.\n"
            "The mean differs from the recorded one by 0.000 %; the tolerance is 0.500 %.\nReproduced.\n",
        ),
        (
            1.0,
            "is reached.\n"
            "The mean differs from the recorded one by 1.000 %; the tolerance is 0.500 %.\nNot reproduced.\n",
        ),
    ):
        outcome = judge_published(config, finished(value))
        print_outcome(config, outcome)
        out = capsys.readouterr().out
        assert out.endswith(f"The published number {end}")
        assert re.search(r"recorded +2\.000 % +0\.075 % +5 *\n", out)  # the number of seeds in the file


def test_a_higher_accuracy_is_better() -> None:
    config = find_published("tf_quickstart", ["expected.published=0.98"])
    for accuracy, reached in ((0.98, True), (0.979, False), (0.99, True)):
        run = replace(finished(0)[0], metrics={"test_accuracy": accuracy})
        outcome = judge_published(config, [run])
        assert outcome is not None
        assert outcome.reached is reached


def test_the_tolerance_depends_on_the_number_of_seeds() -> None:
    def allowed(*overrides: str) -> float | None:
        given = ["expected.mean=2", "expected.standard_deviation=0.5", *overrides]
        return find_published("walkthrough", given).tolerance

    assert allowed() == allowed("expected.seeds=[5,6,7,8,9]") == 0.142  # the file's
    assert allowed("expected.seeds=[7]") == pytest.approx(3 * 0.5 * (1 / 5 + 1) ** 0.5)
    assert allowed("expected.seeds=[7]", "expected.standard_deviation=null") == pytest.approx(0.142 * 3**0.5)
    assert allowed("expected.seeds=[7]", "expected.tolerance=0.3") == 0.3


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model.dropout=0.3"], "The overrides make it another experiment"),
        (["data=digits"], "The overrides make it another experiment"),
        (["expected.metric=test_accuracy"], "The expected results are for test_error_percent, not test_accuracy"),
        (["tracking.log_model=false", "report.figures=none", "data.path=/x", "training.threads=1"], None),
    ],
)
def test_another_experiment_has_no_expected_results(overrides: list[str], reason: str | None) -> None:
    run = replace(finished(2)[0], metrics={"test_error_percent": 2.0, "test_accuracy": 0.98})
    for quick in (False, True):
        config = walkthrough("expected.quick.mean=2", *overrides, quick=quick)
        assert config.not_comparable == reason
        outcome = judge_published(config, [run])
        assert outcome is not None
        assert (outcome.reproduced, outcome.reached) == ((None, None) if reason else (True, None if quick else False))


def test_missing_expected_results_are_not_judged() -> None:
    unknown = walkthrough(
        "expected.mean=null",
        "expected.standard_deviation=null",
        "expected.tolerance=null",
        "expected.versions=null",
        "expected.published=null",
    )
    assert judge_published(unknown, finished(1.0, 3.0)) == PublishedOutcome([1.0, 3.0], 2.0, 2**0.5, None, None)
    assert judge_published(unknown, []) is None


def test_the_shrunk_version_has_one_seed_and_its_own_recorded_result() -> None:
    config = walkthrough("expected.seeds=[7,8]", "expected.quick.mean=9", quick=True)
    assert [c.seed for c in config.configs] == [7]
    assert (config.configs[0].data.limit, config.configs[0].training.epochs, config.mean) == (6000, 2, 9)
    outcome = judge_published(config, finished(9.0))
    assert outcome is not None
    assert (outcome.reproduced, outcome.reached) == (True, None)


def test_names_packages_of_other_versions() -> None:
    config = walkthrough("expected.versions.keras='2.0'", "+expected.versions.nothing='1'")
    changes = version_changes(config.expected)
    assert changes[0].startswith("keras was 2.0, is 3.")
    assert changes[1] == "nothing was 1, is not installed"


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        (
            "walkthrough",
            "seed=3",
            "walkthrough runs unchanged with each of its seeds. Choose seeds with expected.seeds",
        ),
        ("walkthrough", "expected=null", "walkthrough is not a published config: expected is null. Choices: "),
        ("walkthrough", "model.dropout=2", "model.dropout=2 is not allowed"),
        ("walkthrough", "distribution=multi_worker", "distribution=multi_worker cannot run several seeds."),
        ("single_neuron", "training.epochs=1", "single_neuron is not a published config: expected is null. Choices: "),
    ],
)
def test_invalid_overrides_of_a_published_config_are_refused(name: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_published(name, [override])


# --- running them -------------------------------------------------------------------------------------------------


def reproduce(uri: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return command("walkthrough", *DIGITS, *overrides, "--uri", uri, script=SCRIPT)


@pytest.mark.slow
def test_each_seed_runs_once_and_the_mean_is_reported(uri: str, tmp_path: Path) -> None:
    two = ["expected.seeds=[0,1]", "expected.mean=50", "expected.tolerance=50", "expected.published=99"]
    measured = reproduce(uri, *two)
    assert measured.returncode == 2, measured.stderr  # the config has no expected results for digits
    errors = [run.data.metrics["test_error_percent"] for run in runs(uri)]
    assert len(errors) == 2
    mean = f"{sum(errors) / 2:.3f} %"
    assert mean in measured.stdout
    assert measured.stdout.endswith("The overrides make it another experiment, so there is nothing to compare with.\n")
    assert "reached" not in measured.stdout
    assert "seed 1: starting a new run." in measured.stderr

    again = reproduce(uri, *two)
    assert (again.returncode, len(runs(uri))) == (2, 2)
    assert [line.partition(" in run")[0] for line in again.stderr.splitlines()] == [
        f"walkthrough, seed {seed}: already done" for seed in (0, 1)
    ]

    document = tmp_path / "published.md"
    document.write_text(f"# Before\n\n{TABLE_BEGIN}old\n{TABLE_END}\nAfter.\n")
    config = find_published("walkthrough", [*DIGITS, "expected.seeds=[0,1,2]"], uri)
    config = replace(config, expected=find_published("walkthrough").expected)
    write_table(document, [config, replace(config, name="another", configs=config.configs[2:])])
    text = document.read_text()
    assert text.startswith(f"# Before\n\n{TABLE_BEGIN}| Config | Metric |")
    assert text.endswith(f"{TABLE_END}\nAfter.\n")
    assert re.search(
        r"\| `walkthrough` \| `test_error_percent` \| - \| - \| 1.920 % ± 0.075 % \| 5 \|"
        rf" {mean} ± [\d.]+ % \| 2 of 3 \|",
        text,
    )
    assert "| `another` | `test_error_percent` | - | - | 1.920 % ± 0.075 % | 5 | - | - | - | - |\n" in text
    assert re.search(r"Rerun on .*, Python 3\.\d+\.\d+, tensorflow [\d.]+, keras [\d.]+, numpy [\d.]+\.\n", text)


@pytest.mark.soak
def test_an_interrupted_seed_is_resumed(uri: str) -> None:
    many = ["training.epochs=200", "expected.seeds=[5]"]
    # By another command that makes the same config.
    process = start(*DIGITS, "data.validation=0", "training.epochs=200", "seed=5", f"tracking.uri={uri}")
    assert process.stdout is not None
    # A pipe this small cannot take all lines, so the run cannot end before this process has read them.
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    for line in process.stdout:
        if line.startswith("epoch   3/"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = reproduce(uri, *many)
    assert done.returncode == 2, done.stderr
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert f"walkthrough, seed 5: resuming run {run.info.run_id}.\n" in done.stderr
    assert "epoch   1/" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORTEST)
def test_a_shrunk_version_reproduces_its_recorded_result(name: str, uri: str, mnist: Path, tensorflow: None) -> None:
    overrides = ["training.threads=1", "report.figures=none", "tracking.log_model=false"]
    config = find_published(name, overrides, uri, quick=True)
    outcome = judge_published(config, config.run_all())
    assert outcome is not None
    assert outcome.reproduced, outcome


def test_all_goes_on_after_a_config_that_cannot_be_tried(tmp_path: Path, uri: str) -> None:
    done = command("--all", "--quick", f"data.path={tmp_path}/gone", "--uri", uri, script=SCRIPT)
    quick = [name for name, said in published_expectations().items() if said["quick"]]
    assert (done.returncode, done.stderr.count("/gone does not exist")) == (2, len(quick))
    verdicts = done.stdout.splitlines()[-len(published_expectations()) :]
    assert verdicts == [
        f"{name}: {'could not be tried' if name in quick else 'nothing to compare with'}"
        for name in published_expectations()
    ]


def test_all_goes_on_after_unreadable_and_incomplete_files(tmp_path: Path) -> None:
    for folder in ("src", "conf", "scripts"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    experiments = tmp_path / "conf" / "experiment"
    for file in experiments.iterdir():
        file.unlink()
    for name, content in {
        "empty": "",
        "comments": "# @package _global_\n",
        "list": "- expected\n",
        "number": "expected: 3\n",
        "syntax": "expected: [\n",
        "unfinished": "# @package _global_\nexpected:\n  metric: test_accuracy\n",
    }.items():
        (experiments / f"{name}.yaml").write_text(content)
    (experiments / ".#lock.yaml").symlink_to("gone")
    script = str(tmp_path / "scripts" / "reproduce.py")
    done = command("--all", script=script, PYTHONPATH=str(tmp_path / "src"))
    verdicts = "syntax: could not be tried\nunfinished: could not be tried\n"
    assert (done.returncode, done.stdout) == (2, f"\nsyntax\n\nunfinished\n\n{verdicts}")
    syntax, *unfinished = done.stderr.splitlines()
    assert f'in "{experiments}/syntax.yaml", line 2, column 1' in syntax
    missing = ("published", "mean", "standard_deviation", "tolerance", "seeds", "versions", "quick")
    assert [line.partition(" is missing: ")[0] for line in unfinished] == [f"expected.{key}" for key in missing]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of RUN_ID, FILE, NAME and --all"),
        (["walkthrough", "--all"], "give one of RUN_ID, FILE, NAME and --all"),
        (["abc", "--quick"], "of a recorded run only data.path can be changed"),
        (["abc", "seed=1"], "of a recorded run only data.path can be changed"),
        (["walkthrough", "--export", "x"], "--export needs RUN_ID"),
        (["walkthrough", "--table", "x"], "--table needs --all, without --quick"),
        (
            ["--all", "training.epochs=1", "--table", "docs/published.md"],
            "The overrides make it another experiment, which has no place in the table. Leave out --table or",
        ),
        (["x" * 300], "is not a file, the id of a run or a published config. Published configs: best_cpu, "),
        (
            ["walktrough"],
            "'walktrough' is not a file, the id of a run or a published config (did you mean 'walkthrough'?)",
        ),
        (
            ["--all", "--table", "README.md"],
            "README.md has no place for the table. Add the lines <!-- reproduce.py --table",
        ),
    ],
)
def test_a_mistake_in_the_command_is_reported(arguments: list[str], message: str) -> None:
    done = command(*arguments, script=SCRIPT)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_table_in_the_docs_agrees_with_the_configs() -> None:
    text = (PROJECT / "docs" / "published.md").read_text()
    table = text[text.index(TABLE_BEGIN) : text.index(TABLE_END)].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("| `")]
    expected = []
    for name, said in published_expectations().items():
        metric, mean = said["metric"], said["mean"]
        seeds = "-" if mean is None else str(len(said["seeds"]))
        expected.append(
            [
                f"`{name}`",
                f"`{metric}`",
                show_metric(metric, said["published"], AS_PUBLISHED),
                show_mean(metric, mean, said["standard_deviation"]),
                seeds,
            ]
        )
    assert [[*row[:3], *row[4:6]] for row in rows] == expected
