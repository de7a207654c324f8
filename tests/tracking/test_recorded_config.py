"""The identity of a run as it was recorded, compared with that of the current code, packages and data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.config.composition import compose_job
from experiments.config.identity import identity_tags
from experiments.errors import ConfigError
from experiments.tracking.recorded_config import (
    CONFIG_ARTIFACT,
    OVERRIDES_ARTIFACT,
    START_TAG,
    check_identity,
    identity_changes,
    keep_start,
    read_recorded_config,
    settle_starts,
)
from experiments.tracking.records import RunRecord
from experiments.tracking.run import open_run
from experiments.tracking.store import connect_store
from experiments.training import checkpoints

NOW = identity_tags(compose_job([]), "digest of the data")
RECORDED = RunRecord("0" * 32, "name", "KILLED", 0, None, {}, {}, NOW)


def test_unchanged_run_has_no_changes_whatever_tags_it_has_besides() -> None:
    assert identity_changes(replace(RECORDED, tags={**NOW, "git_commit": "abc"}), NOW) == []


@pytest.mark.parametrize(
    ("key", "reported"),
    [
        ("code_digest", "the project's code (code_digest was then, is "),
        ("versions", "the installed packages (versions was then, is tensorflow=="),
        ("data_digest", "the data (data_digest was then, is digest of the data)"),
    ],
)
def test_changed_code_packages_and_data_are_reported(key: str, reported: str) -> None:
    (change,) = identity_changes(replace(RECORDED, tags={**NOW, key: "then"}), NOW)
    assert change.startswith(reported)


def test_digest_of_an_earlier_rule_counts_as_changed_code() -> None:
    tags = {key: value for key, value in NOW.items() if key != "code_digest_rule"}
    for earlier in (tags, {**tags, "code_digest": "0" * 36}, {**NOW, "code_digest_rule": "another"}):
        (change,) = identity_changes(replace(RECORDED, tags=earlier), NOW)
        assert change == "the project's code (recorded by an earlier rule: it cannot be compared)"


def test_changed_run_is_resumed_only_with_resume_anyway(uri: str) -> None:
    tags = {**NOW, "data_digest": "another", "git_commit": "abc"}
    with open_run(uri, "experiment", "name", {}, tags) as run:
        pass
    check_identity(uri, run.run_id, tags, resume_anyway=False)
    check_identity(uri, run.run_id, NOW, resume_anyway=True)
    with pytest.raises(ConfigError) as caught:
        check_identity(uri, run.run_id, NOW, resume_anyway=False)
    assert str(caught.value) == (
        f"Run {run.run_id} cannot be resumed, because these changed: the data (data_digest was another, is digest of"
        " the data). Restore them (its commit was abc), or add resume_anyway=true."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: " + "[" * 900 + "]" * 900, "it is nested too deeply"),
        ("a: &a [*a]", "it describes more than 10,000 values"),
        ("seed: [1", "while parsing a flow sequence"),
        ("seed: \x07", "it has the character 0x07 in line 1, which YAML does not allow"),
        ("a: " + "x" * 2**20, "it has more than 1,048,576 characters"),
    ],
    ids=["deep", "circular", "cut off", "not printable", "long"],
)
def test_damaged_config_is_reported_with_what_is_lost(uri: str, text: str, reason: str) -> None:
    with open_run(uri, "experiment", "name", {}, NOW) as run:
        run.log_text("[]", OVERRIDES_ARTIFACT)
        run.log_text(text, CONFIG_ARTIFACT)
    with pytest.raises(ConfigError) as caught:
        read_recorded_config(uri, run.run_id)
    message = str(caught.value)
    assert message.startswith(f"config/config.yaml of run {run.run_id} is damaged: {reason}")
    assert message.endswith("Restore the file from a copy, or make a new run.")
    assert message.isprintable()
    assert len(message) < 700


def test_how_a_run_was_to_start_is_deleted_only_if_a_kill_prevented_it(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_FOLDER", tmp_path / "checkpoints")
    config = compose_job([f"tracking.uri={uri}"])
    living, prevented, made, elsewhere = (keep_start(config, ["seed=1"]) for _ in range(4))
    for path in (prevented, made, elsewhere):
        kept = json.loads(path.read_text())
        kept["process"]["process.start_time"] = "1"  # it has ended
        path.write_text(json.dumps(kept if path != elsewhere else {**kept, "store": "http://elsewhere"}))
    run_id = connect_store(uri).create_run("0", tags={START_TAG: made.stem}).info.run_id
    others = [living.with_name(f"{number}.starting") for number in range(2)]
    for path, content in zip(others, ("[1]", json.dumps({"store": uri, "process": "x"})), strict=True):
        path.write_text(content)
    settle_starts(uri)
    for path in others:
        path.unlink()
    left = {path.name for path in living.parent.iterdir()}
    assert left == {living.name, elsewhere.name, f"{run_id}.json"}
    assert read_recorded_config(uri, run_id)[1] == ["seed=1"]
