"""The commands that continue from a run: to repeat, resume, reproduce, compare, evaluate and browse it."""

import os
import shlex
from collections.abc import Sequence

from experiments.config.overrides import override_key
from experiments.config.own_code import loaded_own_code
from experiments.config.schema import Config
from experiments.formatting import as_called
from experiments.tracking.addresses import hide_credentials


def code_option() -> list[str]:
    """Return the option that loads the user's own code that is loaded here."""
    own = loaded_own_code()
    return ["--code", str(own.folder)] if own else []


def run_command_line(overrides: Sequence[str]) -> str:
    """Return the command that runs these overrides as one run, quoted for a shell."""
    kept = [override for override in overrides if not override_key(override).startswith("sweep.")]
    return as_called(shlex.join(["python", "run.py", *code_option(), *kept]))


def next_commands(config: Config, overrides: Sequence[str], run_id: str) -> dict[str, str]:
    """Return commands by what they do with a run, without the password in the address of the store."""
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    code = "".join(f" {shlex.quote(word)}" for word in code_option())
    option, override = (f" --uri {shlex.quote(uri)}", ["tracking.uri=" + uri]) if uri else ("", [])
    found = {
        "repeat": run_command_line(overrides),
        "resume": run_command_line([f"resume={run_id}", *override]),
        "reproduce": f"python scripts/reproduce.py {run_id}{code}{option}",
        "compare": f"python scripts/compare.py{option}",
        "evaluate": f"python scripts/evaluate.py {run_id}{code}{option}",
        "browse": f"python scripts/ui.py{option}" if uri else "make ui",
    }
    if config.training.keep_state:
        further = [f"model.continue={run_id}", f"training.epochs={2 * config.training.epochs}", *override]
        found["train further"] = run_command_line(further)
    return {action: as_called(hide_credentials(line)) for action, line in found.items()}
