"""The fingerprint of a config, its plain form, and configs recorded before a key existed."""

import json
import re
from hashlib import sha256
from typing import Any

import pytest
from composed import job

from experiments.config.composition import compose_job
from experiments.config.identity import (
    NEUTRAL_VALUES,
    WITHOUT_EFFECT,
    complete,
    config_to_dict,
    fingerprint_of,
    flatten_config,
    identity_tags,
    without_neutral,
)
from experiments.config.schema import Config
from experiments.config.validation import validate_config


def fingerprint(config: Config, data_digest: str) -> str:
    return identity_tags(config, data_digest)["fingerprint"]


def test_a_validated_config_is_its_own_plain_form() -> None:
    config = job("optimizer=muon", "model.kernel_regularizer={l2:{l2:0.1}}", "schedule=piecewise")
    plain = config_to_dict(config)
    assert validate_config(json.loads(json.dumps(plain))) == config
    assert plain["optimizer"]["ns_steps"] == 5
    assert plain["model"]["kernel_regularizer"] == {"l2": {"l2": 0.1}}


def test_flatten_gives_dotted_names_and_json_for_lists_and_mappings() -> None:
    tree: dict[str, Any] = {
        "seed": 0,
        "model": {"units": [128, 64], "penalty": {"l2": {"l2": 0.1}}, "constraint": None, "name": "mlp"},
    }
    assert flatten_config(tree) == {
        "seed": 0,
        "model.units": "[128, 64]",
        "model.penalty": '{"l2": {"l2": 0.1}}',
        "model.constraint": None,
        "model.name": "mlp",
    }


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "model.dropout=0.3",
        "optimizer.beta_1=0.8",
        "training.epochs=3",
        "data.validation=10",
        "schedule=cosine",
    ],
)
def test_whatever_can_change_a_result_changes_the_fingerprint(override: str) -> None:
    assert fingerprint(job(override), "digest") != fingerprint(job(), "digest")


@pytest.mark.parametrize(
    "override",
    [
        "tracking.experiment=other",
        "tracking.run_name=other",
        "tracking.log_model=false",
        "report.figures=none",
        "data.path=/elsewhere",
        "resume=0123",
        "model.units=128",
    ],
)
def test_what_cannot_change_a_result_leaves_the_fingerprint(override: str) -> None:
    assert fingerprint(job(override), "digest") == fingerprint(job(), "digest")


def test_what_is_expected_of_a_config_leaves_the_fingerprint() -> None:
    with_it, without = (fingerprint(job("experiment=walkthrough", *more), "d") for more in ([], ["expected=null"]))
    assert with_it == without == fingerprint(job("data.validation=0"), "d")


def test_the_data_is_part_of_the_fingerprint() -> None:
    assert fingerprint(job(), "digest") != fingerprint(job(), "other")
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(job(), "digest"))


def test_completes_an_earlier_config_with_the_added_keys() -> None:
    neutral = {"training.label_smoothing": 0.0, "metrics": [], "model.continue": False}
    earlier = {"training": {"epochs": 2}, "model": None}
    assert complete(earlier, neutral) == {
        "training": {"epochs": 2, "label_smoothing": 0.0},
        "metrics": [],
        "model": None,
    }
    assert earlier == {"training": {"epochs": 2}, "model": None}
    later = {"training": {"epochs": 2, "label_smoothing": 0.1}, "metrics": ["f1"]}
    assert complete(later, neutral) == without_neutral(later, neutral) == later


def test_a_key_of_one_choice_is_not_added_to_another() -> None:
    neutral = {"model[cnn].bias": True}
    assert complete({"model": {"name": "mlp"}}, neutral) == {"model": {"name": "mlp"}}
    assert complete({"model": {"name": "cnn"}}, neutral) == {"model": {"name": "cnn", "bias": True}}
    assert without_neutral({"model": {"name": "cnn", "bias": True}}, neutral) == {"model": {"name": "cnn"}}


def test_an_earlier_config_has_the_fingerprint_of_the_completed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_job(["data=digits"])  # as if its version had no training.mixed_precision yet
    monkeypatch.setitem(NEUTRAL_VALUES, "training.mixed_precision", config.training.mixed_precision)
    earlier = without_neutral(config_to_dict(config))
    assert "mixed_precision" not in earlier["training"]
    completed = validate_config(complete(earlier))
    assert completed == config
    assert without_neutral(config_to_dict(completed)) == earlier
    for key in WITHOUT_EFFECT:  # as the earlier version computed it
        group, _, name = key.partition(".")
        (earlier[group] if name else earlier).pop(name or group, None)
    assert fingerprint_of(completed, {}) == sha256(json.dumps([earlier, {}], sort_keys=True).encode()).hexdigest()
    changed = compose_job(["data=digits", "training.mixed_precision=bfloat16"])
    assert fingerprint_of(completed, {}) != fingerprint_of(changed, {})
