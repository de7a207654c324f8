"""The process of a command: what it loads, and how quickly it ends."""

import subprocess
import sys

LOADED = """
import sys, gc
from experiments.runtime import SKIPPED_PACKAGES, collect_garbage_rarely, start_tensorflow
collect_garbage_rarely()
start_tensorflow(1)
import keras
print([name for name in SKIPPED_PACKAGES if name in sys.modules])
import matplotlib, pandas, sklearn
print(pandas.DataFrame({"x": [1]}).x.sum(), sklearn.__name__, matplotlib.__name__)
keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
import atexit
atexit.register(lambda: print("frozen:", gc.get_freeze_count() > 0))  # runs before what was registered earlier
atexit._run_exitfuncs()
print("frozen:", gc.get_freeze_count() > 100_000)
"""


def test_tensorflow_loads_without_optional_packages_and_the_process_ends_without_garbage_collection() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["[]", "1 sklearn matplotlib", "frozen: False", "frozen: True"], done.stderr
    assert done.stderr == ""
