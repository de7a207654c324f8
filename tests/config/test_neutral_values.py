"""Configs recorded before a key existed stay valid and keep their fingerprints."""

import json
from hashlib import sha256

import pytest

from experiments.config.composition import compose_job
from experiments.config.identity import (
    NEUTRAL_VALUES,
    WITHOUT_EFFECT,
    complete,
    config_to_dict,
    fingerprint_of,
    without_neutral,
)
from experiments.config.validation import validate_config


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
    earlier = config_to_dict(config)
    del earlier["training"]["mixed_precision"]
    completed = validate_config(complete(earlier))
    assert completed == config
    assert without_neutral(config_to_dict(completed)) == earlier
    for key in WITHOUT_EFFECT:  # as the earlier version computed it
        group, _, name = key.partition(".")
        (earlier[group] if name else earlier).pop(name or group, None)
    assert fingerprint_of(completed, {}) == sha256(json.dumps([earlier, {}], sort_keys=True).encode()).hexdigest()
    changed = compose_job(["data=digits", "training.mixed_precision=bfloat16"])
    assert fingerprint_of(completed, {}) != fingerprint_of(changed, {})
