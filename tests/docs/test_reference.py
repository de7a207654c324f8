"""docs/reference.md matches the schema and the files in conf/."""

import re

from conftest import PROJECT, command

from experiments.config.choices import CONFIG_FOLDER
from experiments.config.composition import compose_job
from experiments.config.identity import config_to_dict, flatten_config

PAGE = (PROJECT / "docs" / "reference.md").read_text()


def test_the_reference_is_up_to_date() -> None:
    done = command("--check", script="scripts/reference.py")
    assert done.returncode == 0, done.stderr


def test_every_key_of_the_default_config_has_a_row_with_its_meaning() -> None:
    config = compose_job([])
    rows = dict(re.findall(r"^\| `([\w./]+)` \| .* \| (.*) \|$", PAGE, re.MULTILINE))
    assert [key for key in flatten_config(config_to_dict(config)) if not rows.get(key)] == []


def test_every_choice_has_a_section() -> None:
    for file in CONFIG_FOLDER.glob("*/*.yaml"):
        assert f"### {file.parent.name}={file.stem}\n" in PAGE
