"""Write docs/reference.md: every config group, choice and key, from the schema and the files of conf/.

python scripts/reference.py           writes it
python scripts/reference.py --check   says whether it is up to date: exit code 0, or 1
"""

import argparse
import dataclasses
import difflib
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from experiments import PROJECT
from experiments.config.choices import CONFIG_FOLDER, choice_comment, choice_files, config_groups, key_comments
from experiments.config.explanation import field_descriptions
from experiments.config.identity import flatten_config
from experiments.config.schema import Config

REFERENCE = PROJECT / "docs" / "reference.md"
LONGEST_VALUE = 48  # characters
HEAD = """# Reference: every config group, choice and key

Written by `python scripts/reference.py` from `src/experiments/schema.py` and the files of `conf/`; a test fails when it
is not up to date. `GROUP=CHOICE` picks a choice, `GROUP.KEY=VALUE` changes a key, `python run.py --cfg job` shows what
comes of both. How values are written: [Hydra's grammar](https://hydra.cc/docs/advanced/override_grammar/basic/).
"""


class Key(NamedTuple):
    """A key below its group, such as `early_stopping.patience`; its value in the file; what it means."""

    name: str
    value: str
    meaning: str


def reference() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD, "## Keys of no group\n", table("", _top_level())]
    for group, default, comment in config_groups():
        chosen = "" if default in ("null", "default") else f" Default: `{default}`."
        parts.append(f"## {group}\n\n{comment[:1].upper()}{comment[1:]}.{chosen}\n")
        parts += _presets(group) if default == "null" else _choices(group, choice_files(group))
    return "\n".join(parts)


def table(prefix: str, keys: list[Key]) -> str:
    rows = [f"| `{prefix}{key.name}` | {_code(key.value)} | {_cell(key.meaning)} |" for key in keys]
    return "\n".join(["| Key | Value | Meaning |", "|---|---|---|", *rows, ""])


def _top_level() -> list[Key]:
    file = CONFIG_FOLDER / "config.yaml"
    tree = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key not in ("defaults", "hydra")}
    return _keys(tree, key_comments(file), {name: _kind(name) for name in tree}, field_descriptions(Config))


def _choices(group: str, files: list[Path]) -> list[str]:
    """A table for each choice; what is the same in most of them comes first, and once."""
    keys = {file: _keys_of(group, file) for file in files}
    count = Counter(key for own in keys.values() for key in own)
    common = [key for key, times in count.items() if times > 1 and times > len(files) / 2]
    prefix, parts = f"{group.replace('/', '.')}.", []
    if common:
        parts.append(f"In every choice, where its own table does not say otherwise:\n\n{table(prefix, common)}")
    for file, own in keys.items():
        rest, names = [key for key in own if key not in common], {key.name for key in own}
        lacking = [key.name for key in common if key.name not in names]
        parts += [f"### {group}={file.stem}\n", f"{_about(file)}\n", *([table(prefix, rest)] if rest else [])]
        parts += [f"It has no {', '.join(map(_code, lacking))}.\n"] if lacking else []
    return parts


def _presets(group: str) -> list[str]:
    parts = []
    for file in choice_files(group):
        tree = yaml.safe_load(file.read_text()) or {}
        tree.pop("expected", None)  # what comes of it, which the comment says
        chosen = [
            f"{key.removeprefix('override /')}={value}"
            for entry in tree.pop("defaults", [])
            if isinstance(entry, dict)
            for key, value in entry.items()
        ]
        # The space of a search is flat by itself: a key there, with its distribution.
        values = tree if group == "search" else flatten_config(tree)
        chosen += [f"{key}={value if isinstance(value, str) else _flow(value)}" for key, value in values.items()]
        sets = ", ".join(map(_code, chosen))
        parts.append(f"### {group}={file.stem}\n\n{_about(file)}\n\nSets {sets or 'nothing'}.\n")
    return parts


def _about(file: Path) -> str:
    return " ".join(choice_comment(file))


def _keys_of(group: str, file: Path) -> list[Key]:
    tree = yaml.safe_load(file.read_text())
    kind = _kind(group, tree.get("name"))
    nested = {name: _type(kind, name) for name in tree} if kind else {}
    return _keys(tree, key_comments(file), nested, field_descriptions(kind) if kind else {})


def _keys(
    tree: dict[str, Any], comments: dict[str, str], nested: dict[str, Any], meanings: dict[str, str], prefix: str = ""
) -> list[Key]:
    """The keys of a mapping; of those below them where they have a dataclass of their own, or no meaning as a whole."""
    found = []
    for name, value in tree.items():
        path = prefix + str(name)
        if name == "_target_":  # what of Hydra's a file stands for
            continue
        if isinstance(value, dict) and value and (nested.get(name) or not (meanings.get(name) or comments.get(path))):
            found += _keys(
                value, comments, {}, field_descriptions(nested[name]) if nested.get(name) else {}, f"{path}."
            )
        else:
            found.append(Key(path, _flow(value), meanings.get(name) or comments.get(path, "")))
    return found


def _kind(group: str, name: str | None = None) -> Any:
    """The dataclass of a group of the config; of several, the one with this name. None where there is none."""
    hints = {field.name: field.type for field in dataclasses.fields(Config)}
    for candidate in get_args(hints.get(group)) or (hints.get(group),):
        if dataclasses.is_dataclass(candidate):
            names = get_args(candidate.__annotations__.get("name"))
            if name is None or not names or name in names or not all(isinstance(n, str) for n in names):
                return candidate
    return None


def _type(kind: Any, name: str) -> Any:
    """The dataclass of a field, or None."""
    for candidate in (hint := kind.__annotations__.get(name), *get_args(hint)):
        if dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("\n...\n")
    text = text.strip()
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 4]} ..."


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is not up to date")
    new, old = reference(), REFERENCE.read_text() if REFERENCE.exists() else ""
    if not parser.parse_args().check:
        REFERENCE.write_text(new)
        print(f"Wrote {REFERENCE.relative_to(PROJECT)}")
    elif new != old:
        sys.stderr.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "is", "should be", n=0))
        sys.exit("docs/reference.md is not up to date. Renew it: python scripts/reference.py")


if __name__ == "__main__":
    main()
