"""Code of a user's own: loaded only on request, its functions are choices whose keys are checked like ours."""

import dataclasses
import pickle
from pathlib import Path

import pytest
from conftest import command
from own_code import loaded, write_own_code

from experiments.config.composition import compose_job
from experiments.config.identity import config_to_dict, identity_tags
from experiments.config.own_code import load_own_code, load_trusted_code, loaded_own_code
from experiments.errors import ConfigError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_own_code(tmp_path / "my-project")


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_job(list(overrides))
    return str(caught.value)


def test_a_function_is_a_choice_and_its_keyword_arguments_are_the_keys(project: Path) -> None:
    with loaded(project):
        model = compose_job(["model=tiny", "model.width=64"]).model
        assert (model.name, model.width, model.rate, model.weights) == ("tiny", 64, 0.1, None)
        optimizer = compose_job(["optimizer=ngd", "optimizer.epsilon=0.5"]).optimizer
        assert (optimizer.learning_rate, optimizer.arguments) == (0.05, {"epsilon": 0.5})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=tini"], "did you mean 'tiny'?"),
        (["model=tiny", "model.wdth=3"], "unknown key 'model.wdth' (did you mean 'model.width'?)"),
        (["model=tiny", "model.width=0"], "model.width=0 is not allowed: units of the hidden layer, a whole number, 1"),
        (["model=tiny", "model.rate=1"], "a number, 0 or more and below 1"),
        (["model=tiny", "model.rate=x"], "expected a number"),
        (["model=tiny", "model.activation=gelu"], "one of relu, tanh"),
        (["optimizer=ngd", "optimizer.epsilon=0"], "epsilon=0 is not allowed: epsilon of ngd, a number, above 0"),
        (["optimizer=ngd", "optimizer.epsilonn=1"], "did you mean 'optimizer.epsilon'?"),
    ],
)
def test_a_mistake_in_a_key_is_told_as_one_of_ours(project: Path, overrides: list[str], words: str) -> None:
    with loaded(project):
        assert words in refusal(*overrides)


def test_a_yaml_file_may_give_some_of_the_keys(project: Path) -> None:
    (project / "conf" / "model").mkdir(parents=True)
    (project / "conf" / "model" / "tiniest.yaml").write_text("# A small one.\nname: tiny\nwidth: 2\n")
    with loaded(project):
        model = compose_job(["model=tiniest", "model.rate=0.5"]).model
        assert (model.width, model.rate, model.activation) == (2, 0.5, "relu")


def test_a_config_of_own_code_survives_pickle_as_it_goes_to_workers(project: Path) -> None:
    with loaded(project):
        config = compose_job(["model=tiny"])
        again = pickle.loads(pickle.dumps(config))
        assert config_to_dict(again) == config_to_dict(config)
        assert dataclasses.replace(again, seed=3).model == config.model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1 +", "networks.py, line 1: SyntaxError"),
        ("import nothing_here", "networks.py, line 1: ModuleNotFoundError: No module named 'nothing_here'"),
        ("x = 1", "offers nothing"),
        ("import experiments\n@experiments.model\ndef f(a): pass", "must take 2 arguments by position: write f(inputs"),
        ("import experiments\n@experiments.model\ndef f(a, b, *, c=1): pass", "'c' needs a type and a default"),
        ("import experiments\n@experiments.model\ndef f(a, b, *, c: int): pass", "'c' needs a type and a default"),
        (
            "import experiments\n@experiments.model\ndef f(a, b, *, c: int = 'x'): pass",
            "default 'x', which is not a wh",
        ),
        ("import experiments\n@experiments.model\ndef mlp(a, b): pass", "has the name of a choice of ours"),
        (
            "import experiments\n@experiments.metric(direction='up')\ndef f(a, b): pass",
            "A metric has a direction.",
        ),
    ],
)
def test_code_that_cannot_be_used_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    folder = write_own_code(tmp_path / "own", networks=text)
    with pytest.raises(ConfigError) as caught, loaded(folder):
        compose_job([])
    assert words in str(caught.value)


def test_a_file_may_not_have_the_name_of_an_installed_module(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"random\.py has the name of an installed module"):
        load_own_code(str(write_own_code(tmp_path / "own", random="x = 1")))


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        ("def f(a, b, *, name: str = 'x'): pass", "has the name of a key that every choice has"),
        ("def f(a, b, *, c: 'Foo' = 3): pass", "has a type that a config cannot hold: name 'Foo' is not defined"),
        ("def f(a, b, *, c: type = int): pass", "has a type that a config cannot hold"),
        ("def f(a, b, **rest): pass", "must take 2 arguments by position"),
    ],
)
def test_a_signature_that_a_config_cannot_give_is_told(tmp_path: Path, signature: str, words: str) -> None:
    folder = write_own_code(tmp_path / "own", own=f"import experiments\n@experiments.model\n{signature}")
    with pytest.raises(ConfigError) as caught, loaded(folder):
        compose_job([])
    assert words in str(caught.value)


def test_code_that_ends_the_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SystemExit"), loaded(write_own_code(tmp_path / "own", own="exit(0)")):
        pass


def test_linked_files_and_packages_are_read_and_digested(tmp_path: Path) -> None:
    shared = write_own_code(tmp_path / "shared_pkg", __init__="", m="width = 3")
    real = write_own_code(
        tmp_path / "real", linked_networks="import experiments\n@experiments.model\ndef f(a, b): pass"
    )
    folder = write_own_code(tmp_path / "own", uses="import pkg_of_own.m")
    (folder / "pkg_of_own").symlink_to(shared)
    (folder / "linked_networks.py").symlink_to(real / "linked_networks.py")
    with loaded(folder):
        own = loaded_own_code()
        assert own is not None
        assert {"pkg_of_own/m.py", "linked_networks.py", "uses.py"} <= set(own.files)


def test_a_yaml_file_may_not_have_the_name_of_a_choice_of_ours(project: Path) -> None:
    (project / "conf" / "model").mkdir(parents=True)
    (project / "conf" / "model" / "mlp.yaml").write_text("name: tiny\n")
    with loaded(project):
        assert "mlp.yaml has the name of a choice of ours, model=mlp" in refusal("model=mlp")


def test_a_yaml_file_may_have_the_name_of_its_function(project: Path, recwarn: pytest.WarningsRecorder) -> None:
    (project / "conf" / "model").mkdir(parents=True)
    (project / "conf" / "model" / "tiny.yaml").write_text("name: tiny\nwidth: 2\n")
    with loaded(project):
        assert compose_job(["model=tiny"]).model.width == 2
    assert not recwarn.list


def test_files_may_import_each_other(tmp_path: Path) -> None:
    use = "import experiments\nfrom b_helper_of_own import width\n"
    use += "@experiments.model\ndef f(a, b, *, w: int = width): pass"
    with loaded(write_own_code(tmp_path / "own", a_networks_of_own=use, b_helper_of_own="width = 5")):
        assert compose_job(["model=f"]).model.w == 5


def test_the_digest_of_the_code_is_part_of_the_identity(project: Path) -> None:
    config = compose_job([])
    without = identity_tags(config, "")
    with loaded(project):
        first = identity_tags(config, "")
    (project / "networks.py").write_text((project / "networks.py").read_text() + "\n# a comment")
    with loaded(project):
        commented = identity_tags(config, "")
    (project / "networks.py").write_text((project / "networks.py").read_text() + "\nx = 1")
    with loaded(project):
        changed = identity_tags(config, "")
    assert "own_code_digest" not in without
    assert first["own_code"] == "my-project"
    assert first == commented
    assert len({tags["fingerprint"] for tags in (without, first, changed)}) == 3


def test_environments_tests_and_what_runs_have_written_are_not_part_of_the_code(project: Path) -> None:
    with loaded(project):
        before = loaded_own_code()
    for folder in (".venv/lib", "tests", "mlruns/artifacts/code", "outputs", "__pycache__"):
        (project / folder).mkdir(parents=True)
        (project / folder / "more.py").write_text("x = 1")
    with loaded(project):
        assert loaded_own_code() == before
    (project / "helpers" / "outputs").mkdir(parents=True)
    (project / "helpers" / "outputs" / "more.py").write_text("x = 1")
    with loaded(project):
        after = loaded_own_code()
    assert before
    assert after
    assert after.files.keys() - before.files.keys() == {"helpers/outputs/more.py"}


def test_a_working_folder_is_loaded_only_if_its_user_trusts_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(project)
    load_own_code(None)
    assert loaded_own_code() is None
    for text in ('code = ["../my-project", 3]', 'code = "my.proj"'):
        (home / "experiments.toml").write_text(text)
        with pytest.raises(ConfigError, match=r"experiments.toml cannot be read: code is not a list of texts"):
            load_own_code(None)
    (home / "experiments.toml").write_text(f'code = ["{project}"]')
    with loaded(project):
        digest = loaded_own_code().digest  # type: ignore[union-attr]
    with loaded(project):
        own = loaded_own_code()
        assert own is not None
        assert own.folder == project
    assert not load_trusted_code("0" * 36)
    assert digest


def test_a_mistake_is_told_before_keras_is_loaded(project: Path) -> None:
    done = command("--code", str(project), "model=tini")
    assert done.returncode == 2
    assert "did you mean 'tiny'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "completed"),
    [("model=ti", "model=tiny"), ("model=tiny model.wi", "model.width="), ("optimizer=ng", "optimizer=ngd")],
)
def test_own_choices_and_keys_are_completed(project: Path, line: str, completed: str) -> None:
    whole = f"python run.py --code {project} {line}"
    point = str(len(whole))
    done = command("--shell-completion", "query=bash", COMP_LINE=whole, COMP_POINT=point)
    assert completed in done.stdout
