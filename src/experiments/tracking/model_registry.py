"""MLflow's model registry: versions of a model by name, and aliases such as `champion` that point to one of them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.errors import ConfigError
from experiments.tracking.artifacts import find_run_model
from experiments.tracking.store import search_pages, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: str  # counted from 1
    run_id: str  # of the run that made it; empty if another program registered it without one
    aliases: tuple[str, ...]

    @property
    def title(self) -> str:
        """Return how it is spoken of: `digits version 3 (champion)`."""
        return f"{self.name} version {self.version}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")


def check_registry_names(name: str, alias: str) -> None:
    """Raise a ConfigError unless MLflow takes these as the name of a model and of an alias."""
    if not name.strip() or re.search("[/:]", name):
        raise ConfigError(f"--name={name} is not allowed: the name of a registered model, without / and :")
    if not re.fullmatch(r"[\w\-]{1,255}", alias, re.ASCII) or re.fullmatch("(?i)v[0-9]+|latest", alias):
        raise ConfigError(
            f"--alias={alias} is not allowed: letters, digits, _ and -, such as champion; not latest, v1, v2, ..."
        )


def version_with_alias(client: "MlflowClient", name: str, alias: str) -> RegisteredVersion | None:
    """Return the version of a registered model that an alias points to; None if there is none."""
    from mlflow.exceptions import MlflowException

    with store_errors(client.tracking_uri):
        try:
            version = client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
                raise
            return None
    return _registered_version(version)


def register_version(
    client: "MlflowClient", run_id: str, name: str, alias: str, tags: Mapping[str, str], description: str
) -> RegisteredVersion:
    """Register the model of a run as the next version of a name, and let the alias point to it.

    Raise a StoreError if the run has no model, or the store refuses.
    """
    from mlflow.exceptions import MlflowException

    model = find_run_model(client.tracking_uri, run_id)
    with store_errors(client.tracking_uri):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # By its location: MLflow looks for models:/<model id> in $MLFLOW_TRACKING_URI, whatever store it is in.
        place, about = model.artifact_location, {"tags": dict(tags), "description": description}
        made = client.create_model_version(name, place, run_id, model_id=model.model_id, **about)
        client.set_registered_model_alias(name, alias, made.version)
        return _registered_version(client.get_model_version(name, made.version))


def versions_of_runs(client: "MlflowClient", run_ids: Collection[str]) -> list[RegisteredVersion]:
    """Find the registered versions that these runs made."""
    with store_errors(client.tracking_uri):
        made = [version for version in search_pages(client.search_model_versions) if version.run_id in run_ids]
        # A search leaves the aliases out.
        return [_registered_version(client.get_model_version(version.name, version.version)) for version in made]


def _registered_version(version: "ModelVersion") -> RegisteredVersion:
    return RegisteredVersion(version.name, str(version.version), version.run_id or "", tuple(sorted(version.aliases)))
