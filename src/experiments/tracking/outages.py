"""Whether a store answers, and whether what it answers is about what was sent to it."""

import json

from experiments.tracking.addresses import SQLITE, hide_credentials

# What MLflow says about the content of a request. Anything else comes from a store, or from something before it, that
# cannot take requests now, such as a proxy that answers 401, 403, 404 or a page of HTML while the server is replaced.
CONTENT_ERRORS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")


def outage_reason(uri: str, timeout: int) -> str | None:
    """Return why the server does not answer; None if it does, or if the store is a file."""
    if uri.startswith(SQLITE):
        return None
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        response = http_request(
            get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=timeout, raise_on_status=False
        )
    except MlflowException as error:
        cause = error.__cause__ or error.__context__
        return type(cause).__name__ if cause else first_line(error)
    return f"HTTP status {response.status_code}" if response.status_code >= 500 else None


def is_outage(error: BaseException) -> bool:
    """Return whether a store failed for another reason than what was sent to it."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code not in CONTENT_ERRORS
    return isinstance(error, OSError | json.JSONDecodeError)  # as those of `requests` and of artifact stores


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return hide_credentials(lines[0][:500])


def announced_reason(error: BaseException) -> str:
    """Return the first line of an error's message, with the last if it announces what follows, as MLflow's do."""
    first, last = first_line(error), str(error).strip().rpartition("\n")[2].strip()
    return hide_credentials(f"{first} {last[:500]}") if first.endswith(":") else first
