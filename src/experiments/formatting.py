"""Format texts and numbers: safe to print, and with only the digits that the spread justifies."""

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from experiments import INSTALLED

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_CELL = 60  # characters of a parameter's value in a table or a name

# What precedes a user name (the address of a store may lack its scheme), then all up to the last @ of the word, or of
# more words if a password with spaces follows the name.
USER_INFO = re.compile(
    r"""(\buri(?:=|:? )[\['"]*(?!(?:sqlite|file)\\?:|[/.~])(?:[\w+.-]+\\?:/+)?|://(?!/))"""
    r"""(?:[^\s/@:\[]+:(?!/|\d+(?:[/\s'"#?]|$))[^\n'"]*|\S*)@"""
)
ADDRESS_QUERY = re.compile(r"""(://(?!/)[^\s?#'"]*)\?[^\s#'"]*""")

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]")  # but tabs, line ends and returns

LONGEST_MESSAGE_LINE = 1200  # characters of a line of a message: the names of all layers take 1,000
MOST_MESSAGE_LINES = 20

TOOL = "experiments"  # the installed command; of its subcommand NAME, sys.argv[0] is "experiments NAME"
TOOL_VARIABLE = "EXPERIMENTS_TOOL"  # set in its process, and so in those that it starts


def format_with_spread(mean: float, std: float) -> str:
    """Return the mean with the decimals that its spread justifies: `0.9785 ± 0.0012`."""
    if not math.isfinite(std):
        return f"{mean:.5g}"
    if not 1e-6 < std < 1e6:  # 0 too
        return f"{mean:.5g} ± {std:.2g}"
    return f"{mean:.{certain_decimals(std)}f} ± {std:.{certain_decimals(std)}f}"


def certain_decimals(spread: float) -> int:
    """Return how many decimals show two significant digits of a positive spread."""
    return max(0, 1 - math.floor(math.log10(spread)))


def short_id_length(run_ids: Iterable[str]) -> int:
    """Return how many characters of the ids, 8 or more, distinguish the runs."""
    ids, length = set(run_ids), 8
    while len({run_id[:length] for run_id in ids}) < len(ids):
        length += 1
    return length


def shorten(text: str, length: int) -> str:
    """Return the text, cut to `length` characters with an ellipsis when it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shorten_marked(text: str, length: int) -> str:
    """Return the text, cut to `length` characters when it is longer, with a digest that tells it from other long texts.

    >>> shorten_marked("1" * 50, 40)
    '11111111111111… (50 characters, 07b4c4bf)'
    """
    if len(text) <= length:
        return text
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    mark = f" ({len(text):,} characters, {digest})"
    return shorten(text, length - len(mark)) + mark


def shorten_middle(text: str, length: int) -> str:
    """Return the text, without its middle when it is longer than `length`: a message ends with what to do.

    >>> shorten_middle("0123456789", 7)
    '0123…89'
    """
    if len(text) <= length:
        return text
    end = (length - 1) // 3
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def clean_message(text: str) -> str:
    """Return an error's message as it may be printed: bounded in length, and without what a terminal interprets."""
    short = re.sub(r"\S{400,}", lambda word: shorten_middle(word[0], 300), text.strip()).replace("\t", " ")
    lines = [shorten_middle(printable(line), LONGEST_MESSAGE_LINE) for line in short.split("\n")]
    if more := max(0, len(lines) - MOST_MESSAGE_LINES):
        lines[MOST_MESSAGE_LINES - 2 : -1] = [f"and {more + 1:,} more lines like these"]  # the last says what to do
    return "\n".join(lines)


def is_plain_text(text: str) -> bool:
    """Return whether a text has no control characters but tabs and line ends, and no bytes that are not UTF-8."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text)


def printable(text: str) -> str:
    """Return the text without characters that a terminal would interpret."""
    return "".join(character if character.isprintable() else "�" for character in text)


def called_as_tool() -> bool:
    """Return whether this program was called by the installed command, or is no clone, which has no other."""
    return INSTALLED or TOOL_VARIABLE in os.environ


def as_called(text: str) -> str:
    """Return a text with its commands as this program was called: those of a clone, or those of `experiments`.

    As the latter, `python run.py -m seed=0,1; python scripts/compare.py` is `experiments sweep seed=0,1; experiments
    compare`. Columns of a table stay in line.
    """
    if not called_as_tool():
        return text
    text = re.sub(r"python run\.py -m([^\n]*?  )", r"experiments sweep\1 ", text)  # a letter shorter than other lines
    text = text.replace("python run.py -m", "experiments sweep").replace("make ui", "experiments ui")
    if INSTALLED:
        text = text.replace("pip install -e '.[", "pip install 'keras-hydra-experiments[")  # an extra
    return re.sub(r"python (?:scripts/)?(\w+)\.py|(?<![\w/])(run)\.py", r"experiments \1\2", text)


def hide_credentials(text: str) -> str:
    """Return a text without the user name, password and query of each address in it, whatever characters they have.

    >>> hide_credentials("tracking.uri=https://me:p@ss/word@host:5000/?token=1 seed=1")
    'tracking.uri=https://host:5000/ seed=1'
    """
    return ADDRESS_QUERY.sub(r"\1", USER_INFO.sub(r"\1", text))


def escape_markdown(text: str) -> str:
    """Escape a line of text so that Markdown shows it unchanged, also in a table cell."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", printable(text.replace("\n", " ")))


def markdown_code(text: str) -> str:
    """Return the text as a block of code, in a fence that is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def plain_console(width: int | None = None) -> "Console":
    """Return a console of Rich that shows texts as they are: no markup, no `:smile:`, no colours of its own."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def plural(number: int, noun: str) -> str:
    """`1 run`, `1,000 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """`12 s`, `3:05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
