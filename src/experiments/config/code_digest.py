"""Digest of the code that can change a result, by its syntax: comments, docstrings and layout do not count.

Only the standard library is used, and the digest is the same on Python 3.11 to 3.13, whose own dumps of a syntax tree
differ.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from itertools import groupby
from pathlib import Path

CODE_DIGEST_RULE = "syntax-1"  # recorded beside each digest: digests of different rules cannot be compared
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
COMPUTING_CODE = ("config", "data", "training", "runtime.py", "experiment.py")  # what can change a result
# Fields that not every version of Python has, or that say nothing new.
IGNORED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores", "type_params"})
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache  # a process keeps the code that it has loaded when a file is edited
def code_digest(package: Path = PACKAGE_FOLDER) -> str:
    """Return the digest of the computing code in a copy of this package: SHA-256, 36 hex digits."""
    files: dict[str, bytes] = {}
    for part in COMPUTING_CODE:
        place = package / part
        sources = sorted([*place.rglob("*.py"), *place.rglob("*.json")]) if place.is_dir() else [place]
        for source in (path for path in sources if path.is_file()):  # an editor's lock file is a broken link
            files[source.relative_to(package).as_posix()] = source.read_bytes()
    return syntax_digest(files)


def syntax_digest(files: Mapping[str, bytes]) -> str:
    """Return the digest of Python and JSON files, given by their names: SHA-256, 36 hex digits."""
    digest = hashlib.sha256()
    for name, content in files.items():
        tokens = [name]
        if name.endswith(".json"):
            tokens.append(json.dumps(json.loads(content), sort_keys=True))
        else:
            _append_tokens(ast.parse(content), tokens)
        digest.update(" ".join(tokens).encode())
    return digest.hexdigest()[:36]


def _append_tokens(node: ast.AST, tokens: list[str]) -> None:
    """Append the class of a node, then each field that is not empty: its name and its nodes or value."""
    tokens.append(type(node).__name__)
    for name in node._fields:
        value = None if name in IGNORED_FIELDS else getattr(node, name, None)
        if name == "body" and isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            value = node.body[1:]
        elif isinstance(node, ast.JoinedStr):  # versions cut the text of an f-string differently
            value = _join_texts(node.values)
        if value is None or value == []:
            continue
        tokens.append(name)
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, ast.AST):
                _append_tokens(item, tokens)
            else:  # a name, or the value of a constant
                tokens.append(ascii(item))
        tokens.append(";")


def _join_texts(parts: list[ast.expr]) -> list[ast.expr]:
    """Join adjacent texts of an f-string, and drop empty ones."""
    joined: list[ast.expr] = []
    for is_text, group in groupby(parts, lambda part: isinstance(part, ast.Constant)):
        if not is_text:
            joined += group
        elif text := "".join(str(part.value) for part in group):  # type: ignore[attr-defined]
            joined.append(ast.Constant(text))
    return joined
