"""Everything that determines a result: networks, optimizers, loops, randomness, evaluation, checkpoints and devices.

`trainer` runs the epochs of one run; `network_cache` keeps what it compiled for the next run of the same kind.
"""

__all__ = [
    "checkpoints",
    "cluster",
    "compiled_programs",
    "devices",
    "evaluation",
    "initial_weights",
    "network_cache",
    "networks",
    "trainer",
]
