"""A search whose tracking server goes away, and comes back."""

from pathlib import Path

import pytest
from conftest import start
from servers import Proxy, Server
from stores import runs
from sweep_runs import wait_until

SEARCH = [
    *("-m", "data=digits", "training.epochs=1", "report.figures=none", "tracking.log_model=false"),
    *("hydra/sweeper=optuna", "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=2", "hydra.sweeper.pruner=none"),
    *("model.dropout=interval(0,0.5)", "hydra/launcher=basic"),
]


@pytest.mark.soak
def test_a_search_goes_on_after_an_outage_while_a_job_ends(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        proxy = Proxy(server.port)
        search = start(*SEARCH, f"tracking.uri={proxy.uri}")
        wait_until(lambda: proxy.seen("log-batch", 8))  # of the parent and the first job
        proxy.answer(503, of="")
        wait_until(lambda: proxy.refused > 5)
        proxy.answer(403, of="")
        told: list[str] = []
        wait_until(lambda: told.append(search.stderr.readline()) or "The sweep waits" in told[-1])
        proxy.pass_all()
        _, err = search.communicate(timeout=200)
        assert search.returncode == 0, "".join(told) + err
        found = [run for run in runs(server.uri) if "sweep" in run.data.tags or "mlflow.parentRunId" in run.data.tags]
        assert [run.info.status for run in found] == ["FINISHED"] * 3
        assert not any("end_reason" in run.data.tags for run in found)
    finally:
        server.kill()
