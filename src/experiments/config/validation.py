"""From a composed dict to a validated Config: check everything once.

Nothing here loads Hydra, TensorFlow, Keras or MLflow.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from experiments.config.explanation import explain_invalid
from experiments.config.facts import LARGE_NETWORK, available_cores, estimate_weights
from experiments.config.rules import RULES
from experiments.config.schema import Config


def validate_config(raw: Mapping[str, Any]) -> Config:
    """Check a composed config against the schema and across its fields, and resolve `training.threads`.

    Raises:
        ConfigError: one line for each problem.
    """
    raw = {key: value for key, value in raw.items() if key != "search"}  # the space of a search is in no run
    try:
        # As JSON: pydantic's strict mode then takes plain dictionaries, and still no "3" for 3.
        config = TypeAdapter(Config).validate_json(json.dumps(raw))
    except ValidationError as error:
        raise explain_invalid(raw, error) from None
    for rule in RULES:
        rule(config)
    threads = config.training.threads
    resolved = (1 if estimate_weights(config) < LARGE_NETWORK else available_cores()) if threads == "auto" else threads
    return dataclasses.replace(config, training=dataclasses.replace(config.training, threads=resolved))
