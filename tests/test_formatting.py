"""Texts that are safe to print."""

import pytest

from experiments.formatting import hide_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/a", "http://host:5000/a"),
        ("https://token@host", "https://host"),
        ("http://me:p@ss@host", "http://host"),
        ("http://me:pa/ss@host", "http://host"),
        ("http://me:12/ss@host", "http://host"),
        ("http://me:pa?s#s@host", "http://host"),
        ("http://me:my pass@host:5000 seed=1", "http://host:5000 seed=1"),
        ("https://host/api?token=secret&x=1#part", "https://host/api#part"),
        ("postgresql://me:secret@host/db?password=x", "postgresql://host/db"),
        ("'tracking.uri=http://a:b,c{@host' is not an override", "'tracking.uri=http://host' is not an override"),
        ("tracking.uri=me:secret@host:5000", "tracking.uri=host:5000"),
        ("tracking.uri=http:/me:secret@host", "tracking.uri=http:/host"),
        ("tracking.uri=[http://me:secret@host/x?token=y", "tracking.uri=[http://host/x"),
        ("uri: me:secret@host:5000", "uri: host:5000"),
        (r"tracking.uri=http\://me\:secret@host", r"tracking.uri=http\://host"),  # as Hydra escapes
        ("--uri 'http:me:secret@host'", "--uri 'host'"),
    ],
)
def test_credentials_are_hidden_in_any_address(text: str, shown: str) -> None:
    assert hide_credentials(text) == shown
    assert hide_credentials(f"see {text} there") == f"see {shown} there"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@corp/mlflow.db",
        "tracking.uri=sqlite:////home/me@corp/mlflow.db",
        r"tracking.uri=sqlite\:////home/me@corp/mlflow.db",
        "tracking.uri=./a@b/mlflow.db",
        "http://host:5000 tracking.run_name=a@b",
        "tracking.uri=http://host tracking.run_name=a@b",
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning",
        "write to me@host",
    ],
)
def test_what_is_not_a_credential_stays(text: str) -> None:
    assert hide_credentials(text) == text
