"""run.py as a process: its answers, its exit codes, and what it neither loads nor writes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, command
from stores import runs

from experiments.config.choices import CONFIG_FOLDER, group_names
from experiments.config.composition import compose_job
from experiments.config.sweep_composition import compose_sweep

HEAVY = ("tensorflow", "keras", "mlflow", "pandas", "matplotlib", "sklearn")

MODELS = sorted(file.stem for file in (CONFIG_FOLDER / "model").glob("*.yaml"))

MISTAKES = {
    "model.droput=0.3": "unknown key 'model.droput' (did you mean 'model.dropout'?)",
    "~model.droput": "unknown key 'model.droput' (did you mean 'model.dropout'?)",
    "model=mpl": f"model=mpl is not a choice (did you mean 'mlp'?). Choices of model: {', '.join(MODELS)}",
    "experiment=walkthru": "experiment=walkthru is not a choice (did you mean 'walkthrough'?)",
    "training.epochs=three": "training.epochs=three is not allowed: expected a whole number: passes",
    "model.dropout=1.5": "model.dropout=1.5 is not allowed: fraction of values set to zero in training, from 0 up",
    "training.batch_size=55001": "larger than the training split: 55,000 examples",
    "~training": "'~training' removes the group 'training', which every run needs",
    "+optimizer.momentum=0.9": "unknown key 'optimizer.momentum' (did you mean 'optimizer.ema_momentum'?).",
    "model.activation=rellu": "Keras has no activation 'rellu' (did you mean 'relu'?)",
    "model.dropout=0.1,0.2": "For a sweep add -m: python run.py -m model.dropout=0.1,0.2",
    "model.weights=1f0a": "model.weights=1f0a is not allowed: where to start: id of a finished run",
    "data.path=/nowhere": "data.path=/nowhere: /nowhere does not exist.",
    "hydra.run.dir=elsewhere": "hydra.run.dir is not supported: it would have no effect. Choices: hydra/launcher,",
    "hydra/launcher=joblib": "hydra/launcher=joblib is not a choice. Choices of hydra/launcher: basic, pool",
    "hydra/launcher='joblib'": "hydra/launcher=joblib is not a choice. Choices of hydra/launcher: basic, pool",
    "~hydra/launcher": "'~hydra/launcher' is not supported: a setting of Hydra cannot be removed. Leave it out.",
    "hydra/sweeper=optuna": "'hydra/sweeper=optuna' has no effect on a single run. For a sweep add -m, or leave it",
    "hydra.launcher.workers=3": "'hydra.launcher.workers=3' has no effect on a single run. For a sweep add -m",
    "hydra.launcher.wrkers=3": "unknown key 'hydra.launcher.wrkers' (did you mean 'hydra.launcher.workers'?). Keys of",
    "hydra.launcher=5": "hydra.launcher=5 is not a mapping. Give its keys, such as hydra.launcher.KEY=VALUE.",
    "hydra.mode=foo": "hydra.mode=foo is not a choice. Choices of hydra.mode: MULTIRUN, RUN",
    "sweep.dry_run=true": "'sweep.dry_run=true' has no effect on a single run. For a sweep add -m, or leave it out.",
    "resume=": "resume= is not allowed: id of an interrupted run to continue, or null",
    "tracking.uri=ftp://x": "tracking.uri=ftp://x is not supported. Choices: sqlite:///PATH/mlflow.db",
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["tracking.uri=http://me:secret{@host"],
        ["tracking.uri=http://me:secret,secret@host"],
        ["--cfg", "job", "tracking.uri=http://me:sec/ret@secret@host"],
        ["tracking.uri=me:secret@host"],
    ],
)
def test_shows_no_password(arguments: list[str]) -> None:
    done = command(*arguments)
    assert "host" in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert "ret@" not in done.stdout + done.stderr


def test_a_copy_does_not_run_the_code_of_the_original(tmp_path: Path) -> None:
    (tmp_path / "src" / "experiments").mkdir(parents=True)
    shutil.copy(PROJECT / "run.py", tmp_path)
    done = subprocess.run([sys.executable, tmp_path / "run.py"], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"run.py belongs to {tmp_path}, but this Python has the code of {PROJECT} installed" in done.stderr
    assert f"rm -rf {tmp_path}/.venv; make -C {tmp_path} setup" in done.stderr


def test_make_sets_up_again_after_a_move(tmp_path: Path) -> None:
    for name in ("requirements.lock", "pyproject.toml", "Makefile"):
        shutil.copy(PROJECT / name, tmp_path)
    ready = tmp_path / ".venv" / ".ready"
    ready.parent.mkdir()
    for content, sets_up in ((f"{tmp_path}\n", False), ("/another/folder\n", True)):
        ready.write_text(content)
        done = subprocess.run(["make", "-n", "run"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ("--editable ." in done.stdout) == sets_up


@pytest.mark.parametrize("override", MISTAKES)
def test_reports_a_mistake_in_one_line_before_anything_is_loaded_or_written(override: str, tmp_path: Path) -> None:
    loaded = (
        "import sys, atexit; from experiments.cli import main;"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules])); main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", loaded, override], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert MISTAKES[override] in process.stderr
    assert process.stderr.count("\n") == 1
    assert process.returncode == 2
    assert process.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_config_file_edited_after_the_check_does_not_change_the_run(uri: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nseed: 1\n")
    # The check looks for the data once it has composed and validated.
    edit_when_checked = f"""
import sys
from pathlib import Path
from experiments.cli import main

def edit(event, arguments):
    if event == "import" and arguments[0] == "experiments.data.datasets":
        Path({str(file)!r}).write_text("# @package _global_\\nseed: 2\\n")

sys.addaudithook(edit)
main()
"""
    arguments = ["--config-dir", str(tmp_path), "experiment=mine", "data=digits", "training.epochs=1"]
    line = [sys.executable, "-c", edit_when_checked, *arguments, "report.figures=none", f"tracking.uri={uri}"]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "seed: 2" in file.read_text()
    (run,) = runs(uri)
    assert run.data.params["seed"] == "1"
    assert set(tmp_path.iterdir()) == {file.parent, tmp_path / "store"}  # nothing of Hydra's


@pytest.mark.parametrize("sweep", [["-m"], ["hydra.mode=MULTIRUN"], ["-m", "hydra/sweeper=optuna"]])
def test_shows_help_for_a_sweep_too(sweep: list[str]) -> None:
    done = command("--help", *sweep, "seed=0,1")
    assert (done.returncode, done.stdout, done.stderr) == (0, command("--help").stdout, "")


def test_flags_may_stand_anywhere_among_the_overrides() -> None:
    done = command("sweep.minutes=-1", "-m", "seed=0,1")
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "sweep.minutes=-1 is not allowed")
    assert "seed: 3\n" in command("model.units=5", "--cfg", "job", "seed=3").stdout
    assert command("--seed=3").stderr == "unrecognized arguments: --seed=3. For help: python run.py --help\n"


@pytest.mark.parametrize("question", ["--cfg=job", "--info=defaults"])
def test_refuses_questions_about_one_run_in_a_sweep(question: str) -> None:
    done = command("-m", "seed=0,1", question)
    assert (done.returncode, done.stderr) == (2, "--cfg and --info are about one run. Leave out -m.\n")


def test_every_job_of_a_sweep_is_checked_before_the_first_starts() -> None:
    done = command("-m", "model.dropout=0.1,0.2,1.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "model.dropout=1.5 is not allowed" in done.stderr


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (["training.threads=1,2", "hydra/launcher=basic"], "The jobs of this sweep differ in training.threads"),
        (["training.tensor_float_32=true,false", "hydra/launcher=basic"], "in training.tensor_float_32 or in"),
        (["seed=0,1", "distribution=multi_worker", "distribution.workers=2"], "cannot be swept with -m"),
    ],
)
def test_refuses_a_sweep_that_cannot_run_in_one_process(sweep: list[str], said: str) -> None:
    done = command("-m", *sweep)
    assert done.returncode == 2
    assert said in done.stderr


def test_refuses_an_unknown_choice_in_a_sweep() -> None:
    done = command("-m", "model=mlp,mpl")
    assert done.returncode == 2
    assert "mpl" in done.stderr
    assert ", ".join(MODELS) in done.stderr


@pytest.mark.parametrize("question", [["--help"], ["--cfg", "job"], ["--info", "defaults"]])
def test_answers_questions_without_loading_anything_heavy(question: list[str]) -> None:
    script = (
        "import sys, atexit; from experiments.cli import main;"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *question], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "mlp" in done.stdout


@pytest.mark.parametrize(
    ("word", "completed"), [("model=", [f"model={model}" for model in MODELS]), ("model.act", ["model.activation="])]
)
def test_bash_completes_choices_and_keys_and_runs_no_other_script(
    word: str, completed: list[str], tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text("open('was-run', 'w')")
    script = f"""
eval "$(python run.py -sc install=bash)"
function=$(complete -p python | grep --only-matching -- "-F [^ ]*" | cut -c 4-)
press_tab() {{ COMP_WORDS=("$@") COMP_LINE="$*" COMP_POINT=100 COMP_CWORD=2; $function; }}
press_tab python run.py "{word}"
echo "${{COMPREPLY[@]}}"
cd "{tmp_path}"
press_tab python other.py "{word}"
"""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == completed, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["other.py"]


def test_help_lists_every_choice_and_key_and_ten_examples_that_compose() -> None:
    text = command("--help").stdout
    assert max(map(len, text.splitlines())) <= 120
    for group in (*group_names(), "hydra/launcher", "hydra/sweeper"):
        (section,) = re.findall(rf"^{group}: .*\n((?:  .*\n)*)", text, re.MULTILINE)
        told = dict(line.split(maxsplit=1) for line in section.splitlines())
        assert sorted(told) == sorted(
            file.stem for file in (CONFIG_FOLDER / group).glob("*.yaml") if file.stem != "default"
        )
        assert len(set(told.values())) == len(told)
        for name, what in told.items():
            header = (CONFIG_FOLDER / group / f"{name}.yaml").read_text().removeprefix("# @package _global_\n")
            assert header.startswith((f"# {what}.\n", f"# {what}\n")), name
    for key in ("seed", "resume", "resume_anyway", "objective.metric", "sweep.retries", "sweep.dry_run", "130, 143"):
        assert re.search(rf"^{key}  +\w", text, re.MULTILINE)
    examples = text.partition("== Examples ==")[2].partition("==")[0].split("\n")[2:-2]
    assert len(examples) == 10
    for example in examples[:9]:
        arguments = shlex.split(example)[2:]
        if "hydra/sweeper=optuna" in arguments:
            continue  # composed trial by trial
        compose = compose_sweep if "-m" in arguments else compose_job
        assert compose([a for a in arguments if a != "-m"])
    assert examples[9].startswith("python scripts/compare.py")
    for document in re.findall(r"^(\S+\.md) ", text.partition("== Further reading ==")[2], re.MULTILINE):
        assert (PROJECT / document).exists()


def test_names_layers_that_do_not_fit_before_a_run_is_made(new_uri: str, tmp_path: Path) -> None:
    layers = "model.layers=[{Conv2D:{filters:8,kernel_size:3}},Flatten,{Dense:{units:10}}]"
    done = command("data=digits", "model=layers", layers, f"tracking.uri={new_uri}")
    assert done.returncode == 2
    assert "model.layers[0] (Conv2D) does not fit: it receives the shape (8, 8); Keras says:" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_refuses_an_output_that_does_not_fit_the_classes(uri: str) -> None:
    done = command("data=digits", "model=layers", "model.layers=[Flatten,{Dense:{units:9}}]", f"tracking.uri={uri}")
    assert done.returncode == 2
    assert "model.layers end in the shape (None, 9), data=digits needs (None, 10)" in done.stderr
