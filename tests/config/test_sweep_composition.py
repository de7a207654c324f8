"""The jobs that a command with -m stands for."""

from experiments.config.sweep_composition import compose_sweep


def test_a_sweep_is_every_combination_in_order() -> None:
    jobs = [job.config for job in compose_sweep(["seed=0,1", "model.units=[8],[8,4]"]).jobs]
    assert [(config.seed, config.model.units) for config in jobs] == [(0, [8]), (0, [8, 4]), (1, [8]), (1, [8, 4])]


def test_a_range_in_a_sweep_is_expanded() -> None:
    assert [job.config.seed for job in compose_sweep(["seed=range(3)"]).jobs] == [0, 1, 2]
