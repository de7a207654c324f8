"""The identity of a run as it was recorded, compared with that of the current code, packages and data."""

from dataclasses import replace

import pytest

from experiments.config.composition import compose_job
from experiments.config.identity import identity_tags
from experiments.errors import ConfigError
from experiments.tracking.recorded_config import check_identity, identity_changes
from experiments.tracking.records import RunRecord
from experiments.tracking.run import open_run

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
