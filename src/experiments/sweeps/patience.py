"""Wait for a store that does not answer, so that a sweep goes on once it does."""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from experiments.errors import StoreOutageError, TrainingError
from experiments.formatting import format_duration

STORE_PATIENCE = 3600.0  # seconds that a sweep waits for its store
STORE_POLL = 5.0  # seconds between looks at the store

T = TypeVar("T")


def outlast_outage(act: Callable[[], T]) -> T:
    """Return what `act` returns, which is called again while its store does not answer.

    Raise a TrainingError if that takes longer than STORE_PATIENCE.
    """
    deadline = 0.0
    while True:
        try:
            return act()
        except StoreOutageError as error:
            if not deadline:
                deadline = time.monotonic() + STORE_PATIENCE
                limit = format_duration(STORE_PATIENCE)
                print(f"{error}\nThe sweep waits for its store, at most {limit}.", file=sys.stderr, flush=True)
            elif time.monotonic() > deadline:
                raise TrainingError(f"The sweep has waited for its store in vain: {error}") from None
            time.sleep(STORE_POLL)
