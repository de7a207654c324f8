"""Read YAML that may come from anybody: what it describes is bounded before it is built.

A few hundred bytes of YAML can describe billions of values, by lists of aliases (`*name`) to lists of aliases.
"""

from typing import Any

import yaml

LARGEST_YAML = 2**20  # characters
MOST_VALUES = 100_000  # with every alias replaced by what it stands for


def read_yaml(text: str, source: str) -> Any:
    """Return what a YAML text describes; raise a YAMLError, which names the source, if it is too much or not YAML."""
    check_yaml(text, source)
    return yaml.safe_load(text)


def check_yaml(text: str, source: str) -> None:
    """Raise a YAMLError, which names the source, if a text is too long, or its aliases stand for too much."""
    if len(text) > LARGEST_YAML:
        raise yaml.YAMLError(f"{source} has more than {LARGEST_YAML:,} characters.")
    if "*" not in text:  # there are no aliases
        return
    if _count_expanded_values(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MOST_VALUES:
        raise yaml.YAMLError(
            f"{source} describes more than {MOST_VALUES:,} values, because its aliases (*name) stand for other"
            " aliases or for themselves. Write out what is meant."
        )


def _count_expanded_values(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Count the values below a node, those of aliases each time; infinite for a node within itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")
        items = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_count_expanded_values(item, known) for item in items)
    return known[id(node)]
