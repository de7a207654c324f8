"""Read YAML that may come from anybody: what it describes is bounded before it is built.

A few hundred bytes of YAML can describe billions of values, by lists of aliases (`*name`) to lists of aliases.
"""

from itertools import islice
from typing import Any

import yaml

LARGEST_YAML = 2**20  # characters
MOST_VALUES = 10_000  # with every alias replaced by what it stands for; Hydra composes as many in two seconds


def read_yaml(text: str, source: str) -> Any:
    """Return what a YAML text describes; raise a YAMLError, which names the source, if it is too much or not YAML."""
    check_yaml(text, source)
    return yaml.safe_load(text)


def check_yaml(text: str, source: str) -> None:
    """Raise a YAMLError, which names the source, if a text is too long or no text, or describes too much."""
    if len(text) > LARGEST_YAML:
        raise yaml.YAMLError(f"{source} has more than {LARGEST_YAML:,} characters.")
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):  # as in UTF-16
        where = f"the character 0x{ord(found[0]):02x} in line {text.count(chr(10), 0, found.start()) + 1}"
        raise yaml.YAMLError(f"{source} has {where}, which YAML does not allow. Remove it, and save the file as UTF-8.")
    if "*" not in text and len(text) < MOST_VALUES:  # there are no aliases
        return
    events = iter(_named_loader(text, source).get_event, None)  # one or two for each value
    is_long = next(islice(events, 2 * MOST_VALUES, None), None)
    if is_long or _count_expanded_values(_named_loader(text, source).get_single_node(), {}) > MOST_VALUES:
        raise yaml.YAMLError(
            f"{source} describes more than {MOST_VALUES:,} values, where each alias (*name) counts as what it stands"
            " for. Write out what is meant."
        )


def _named_loader(text: str, source: str) -> yaml.SafeLoader:
    loader = yaml.SafeLoader(text)
    loader.name = source  # for its errors
    return loader


def _count_expanded_values(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Count the values below a node, those of aliases each time; infinite for a node within itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")
        items = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_count_expanded_values(item, known) for item in items)
    return known[id(node)]
