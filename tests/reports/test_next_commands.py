"""The commands that a run suggests."""

import shlex

from experiments.config.composition import compose_job
from experiments.reports.next_commands import next_commands, run_command_line


def test_command_is_quoted_for_a_shell():
    overrides = ["model.units=[64,32]", 'tracking.run_name="a b"', "optimizer={name: sgd}"]
    assert shlex.split(run_command_line(overrides)) == ["python", "run.py", *overrides]


def test_commands_name_the_store_without_its_password():
    uri = "tracking.uri=http://me:secret@example.org"
    found = next_commands(compose_job([uri]), [uri], "1234abcd")
    assert "secret" not in str(found)
    assert found["resume"] == "python run.py resume=1234abcd tracking.uri=http://example.org"
    assert found["compare"].endswith(" --uri http://example.org")
    assert found["evaluate"] == "python scripts/evaluate.py 1234abcd --uri http://example.org"
    assert found["reproduce"] == "python scripts/reproduce.py 1234abcd --uri http://example.org"


def test_the_settings_of_a_sweep_are_not_part_of_the_command_of_one_run():
    assert run_command_line(["seed=1", "sweep.minutes=5", "+sweep.retries=1"]) == "python run.py seed=1"


def test_commands_name_the_store_that_a_variable_names(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@example.org")
    found = next_commands(compose_job([]), [], "1234abcd")
    assert found["resume"] == "python run.py resume=1234abcd tracking.uri=http://example.org"
    assert found["browse"] == "python scripts/ui.py --uri http://example.org"
