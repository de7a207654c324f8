"""How texts and numbers are shown: safe for a terminal or Markdown, with the digits that their spread leaves sure."""

import math
import re
from collections.abc import Iterable


def format_with_spread(mean: float, std: float) -> str:
    """The mean to the decimals that its spread leaves sure: `0.9785 ± 0.0012`."""
    if not math.isfinite(std):
        return f"{mean:.5g}"
    if not 1e-6 < std < 1e6:  # 0 too
        return f"{mean:.5g} ± {std:.2g}"
    return f"{mean:.{certain_decimals(std)}f} ± {std:.{certain_decimals(std)}f}"


def certain_decimals(spread: float) -> int:
    """The decimals that a positive spread leaves sure: two digits of it."""
    return max(0, 1 - math.floor(math.log10(spread)))


def short_id_length(run_ids: Iterable[str]) -> int:
    """How many characters of the ids, 8 or more, tell the runs apart."""
    ids, length = set(run_ids), 8
    while len({run_id[:length] for run_id in ids}) < len(ids):
        length += 1
    return length


def shorten(text: str, length: int) -> str:
    """The text, cut to `length` characters with an ellipsis when it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def printable(text: str) -> str:
    """The text without characters that a terminal would act on."""
    return "".join(character if character.isprintable() else "�" for character in text)


def escape_markdown(text: str) -> str:
    """A line of text that Markdown leaves as it is, also in a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", printable(text.replace("\n", " ")))


def plural(number: int, noun: str) -> str:
    """`1 run`, `1,000 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """`12 s`, `3:05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
