"""A sweep: one parent run in MLflow, and its jobs as child runs, each of which is run once, whatever ends the command.

The parent is known by the configs of its jobs, a job by its fingerprint (config, code, data) among the parent's
children; so the same command finds what is done, goes on with what was cut off, and runs again what failed. The plan is
frozen in a file when the sweep starts: whichever launcher and process runs a job, it runs the config that is there.
"""

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import PROJECT, evaluate, leaderboard, resume, runs, study, summary, sweep_plan, tracking
from experiments.config import as_dict, identity, objective, validate
from experiments.errors import ConfigError, StoreError, TrainingError, UserError
from experiments.formatting import duration, plural
from experiments.schema import Config
from experiments.sweep_plan import NOTHING, Job, Outcome, Plan, varied

FOLDER = PROJECT / "outputs" / "sweeps"
LONGEST_PARAM = 500  # characters of a swept parameter's values on the parent
PATIENCE = 30  # seconds that a job waits for the process that has its run to end


# --- the parent -----------------------------------------------------------------------------------------------------


_current: "Sweep | None" = None


def current() -> "Sweep | None":
    """The sweep that this process leads."""
    return _current


@contextmanager
def open_sweep(plan: Plan, command: Sequence[str]) -> Iterator["Sweep"]:
    """The parent run, open while the jobs run; it ends with its true status.

    FINISHED only if every job is; FAILED with the list of those that are not; KILLED for Ctrl-C and SIGTERM.

    Args:
        command: the arguments of the command line, with which the sweep can be entered again.

    Raises:
        UserError: the same sweep is running already; nothing was written.
        TrainingError: jobs failed; lists them all.
    """
    global _current
    base = plan.base
    again = _shown(command)
    with _only_one(plan):
        parent = plan.parent
        if not base.sweep.rerun and parent is None and runs.exists(plan.uri):  # made since by another process
            parent = sweep_plan.find_parent(runs.open_store(plan.uri), base, plan.digest)
        parent_id = parent.run_id if parent else None
        values = varied(plan.composed.jobs)
        params = {key: ", ".join(values)[:LONGEST_PARAM] for key, values in values.items()}
        params |= {} if plan.composed.is_search else {"runs": str(len(plan.jobs))}
        name = base.tracking.run_name or " x ".join(key.rpartition(".")[2] for key in values) or "sweep"
        tags = {
            "sweep": plan.digest,
            "command": again,
            "objective": " ".join(objective(base)),
            "mlflow.note.content": f"**Not finished.**\n\n```\n{again}\n```",
        }
        opened = tracking.open_run(plan.uri, base.tracking.experiment, name, params, tags, parent_id)
        with opened as run, ExitStack() as resources:
            _current = Sweep(plan, run, again, resources)
            try:
                yield _current
                _current.close()
            except BaseException as error:
                if not isinstance(error, TrainingError):
                    print(f"\nGo on with the sweep: {again}", file=sys.stderr)
                raise
            finally:
                os.environ.pop(summary.SWEEP, None)
                shutil.rmtree(_current.folder, ignore_errors=True)
                _current = None


def show(plan: Plan, command: Sequence[str]) -> None:
    """Print what a finished sweep came to; nothing is written.

    Args:
        command: as of open_sweep.
    """
    assert plan.parent is not None
    board = _board(plan.uri, plan.parent.run_id, plan.jobs, plan.before)
    commands = leaderboard.commands(board, plan.base.tracking.uri, plan.parent.run_id, _shown(command))
    with tracking.ended_run(plan.uri, plan.parent.run_id) as run:
        leaderboard.show(run, board, commands)


def _shown(command: Sequence[str]) -> str:
    return tracking.shown(shlex.join(["python", "run.py", *command]))


def _board(
    uri: str, parent_id: str, jobs: Sequence[Job], outcomes: Sequence[Outcome]
) -> leaderboard.Leaderboard | None:
    children = {outcome.run_id for outcome in outcomes}  # others are of other code, and not to be compared
    found = runs.with_tags(runs.open_store(uri), {"mlflow.parentRunId": parent_id})
    metric, mode = objective(jobs[0].config)
    return leaderboard.rank([run for run in found if run.run_id in children], metric, mode, list(varied(jobs)))


@contextmanager
def _only_one(plan: Plan) -> Iterator[None]:
    """Hold the sweep's lock on this machine. (Other machines are told by the status of the parent run.)"""
    key = hashlib.sha256(f"{plan.uri} {plan.base.tracking.experiment} {plan.digest}".encode()).hexdigest()
    path = FOLDER / f"{key[:32]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"This sweep is running already, in process {file.read() or 'unknown'} of this machine. Wait for it, or"
                " stop that process; the same command then goes on with it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class Sweep:
    """A sweep while it runs.

    Attributes:
        run: the parent run, to log to.
        jobs: by their number.
        resources: closed when the sweep ends.
        pool: what its launcher keeps between calls.
        expected: of a search: how many jobs there will be.
    """

    def __init__(self, plan: Plan, run: tracking.Run, command: str, resources: ExitStack) -> None:
        self.plan, self.run, self.command, self.resources = plan, run, command, resources
        self.pool: Any = None
        self.jobs: list[Job] = []
        self.expected = 0
        self.metric, self.mode = objective(plan.base)
        self.folder = FOLDER / run.run_id
        self.reasons: dict[int, str] = {}  # of jobs that failed without a run
        self.refused: list[str] = []  # of a search: trials that no job could be made of
        self.seconds: list[float] = []  # of each job that was run
        self.through: set[int] = set()  # jobs that are done, or were tried
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)  # the address of the store may hold a password
        os.environ[summary.SWEEP] = str(self.folder)
        self._add(plan.jobs)
        self._log_plan()
        leaderboard.prepare(run, varied(self.plan.composed.jobs), self.metric, self.mode)

    def add(self, overrides: Sequence[Sequence[str]], trials: Sequence[Mapping[str, Any] | None] = ()) -> list[int]:
        """Plan further jobs of a search.

        Args:
            overrides: of each job, all of them.
            trials: what tells each job's trial apart, as JSON holds it.

        Returns:
            The jobs' numbers.

        Raises:
            ConfigError: a job cannot be run.
        """
        keys = list(varied(self.plan.composed.jobs))
        jobs = sweep_plan.jobs_of(self.plan.composed.more(overrides), keys, len(self.jobs))
        self._add([replace(job, trial=trial) for job, trial in zip(jobs, trials or [None] * len(jobs), strict=True)])
        return [job.number for job in jobs]

    def _add(self, jobs: Sequence[Job]) -> None:
        self.jobs += jobs
        for job in jobs:
            record = {**vars(job), "config": as_dict(job.config)}
            (self.folder / f"{job.number}.json").write_text(json.dumps(record))

    def _log_plan(self) -> None:
        plan = [
            {
                "number": job.number,
                "name": job.name,
                "overrides": [tracking.shown(override) for override in job.overrides],
                "fingerprint": job.fingerprint,
                "trial": job.trial,
                # Where the runs are stored is known to who reads this, and may hold a password.
                "config": as_dict(replace(job.config, tracking=replace(job.config.tracking, uri=None))),
            }
            for job in self.jobs
        ]
        self.run.log_text(json.dumps(plan), "config/plan.json")

    def outcome(self, number: int) -> Outcome:
        """What came of a job."""
        found = sweep_plan.children(self.run.uri, self.run.run_id, self.jobs[number].fingerprint)
        return self._with_reason(number, found.get(self.jobs[number].fingerprint, NOTHING))

    def outcomes(self) -> list[Outcome]:
        """What came of every job."""
        found = sweep_plan.children(self.run.uri, self.run.run_id)
        return [self._with_reason(job.number, found.get(job.fingerprint, NOTHING)) for job in self.jobs]

    def _with_reason(self, number: int, outcome: Outcome) -> Outcome:
        return outcome if outcome.reason else replace(outcome, reason=self.reasons.get(number, ""))

    @property
    def is_stopped(self) -> bool:
        """Whether a job failed and `sweep.on_error=stop` says that no further one starts."""
        return _is_stopped(self.folder)

    def to_run(self, numbers: Sequence[int]) -> list[int]:
        """Of these jobs, those that are not done; of several that are the same experiment, the first."""
        outcomes = self.outcomes()
        found = [n for n in numbers if not outcomes[n].is_done and sweep_plan.first_of_its_kind(self.jobs, n) == n]
        self.through |= {n for n, outcome in enumerate(outcomes) if outcome.is_done}
        return found

    def finished(self, number: int, outcome: Outcome, seconds: float, workers: int = 1) -> None:
        """Print a line on a job that is through, with what the whole sweep still takes.

        Args:
            seconds: that the job took.
            workers: how many jobs run at once.
        """
        if not outcome.run_id:
            self.reasons[number] = outcome.reason
        self.through.add(number)
        self.seconds.append(seconds)
        total = max(len(self.jobs), self.expected)
        how = f"{self.metric} {outcome.metrics[self.metric]:.4f}" if self.metric in outcome.metrics else ""
        status = outcome.status if outcome.run_id else "no run"
        how = how if outcome.is_done and how else "pruned" if outcome.pruned else status
        left = (total - len(self.through)) / workers * sum(self.seconds) / len(self.seconds)
        rest = f"  about {duration(left)} left" if left > 0 else ""
        width = len(str(total))
        print(
            f"[{len(self.through):{width}}/{total}] {self.jobs[number].name}  {how}  {seconds:.1f} s{rest}", flush=True
        )
        if not outcome.is_done:
            print(f"  {self.jobs[number].name}: {outcome.reason}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Log and print what the sweep came to.

        Raises:
            TrainingError: jobs failed or were not started; lists them all.
        """
        outcomes = self.outcomes()
        self._log_plan()
        failed = self.refused + [
            f"{job.name}: {outcome.status if outcome.run_id else 'no run'}"
            + (f" ({outcome.run_id})" if outcome.run_id else "")
            + (f": {outcome.reason}" if outcome.reason else "")
            for job, outcome in zip(self.jobs, outcomes, strict=True)
            if not outcome.is_done
        ]
        board = _board(self.run.uri, self.run.run_id, self.jobs, outcomes)
        if board:
            best = next(number for number, outcome in enumerate(outcomes) if outcome.run_id == board.best.run_id)
            self._draw(self.jobs[best], board.best.run_id)
        commands = leaderboard.commands(board, self.plan.base.tracking.uri, self.run.run_id, self.command)
        leaderboard.publish(self.run, board, commands, failed, self.plan.base.report.style)
        leaderboard.show(self.run, board, commands)
        if failed:
            raise TrainingError(
                f"{len(failed)} of {plural(len(self.jobs) + len(self.refused), 'job')} of the sweep did not finish:"
                + "".join(f"\n  {line}" for line in failed)
                + f"\nThe same command runs them again: {self.command}"
            )

    def _draw(self, best: Job, run_id: str) -> None:
        """Give the best run the figures that its command would have drawn alone."""
        if not sweep_plan.has_light_figures(best.overrides) or not best.config.tracking.log_model:
            return
        if self.pool:
            self.pool.draw(best, run_id)
        elif "tensorflow" in sys.modules:  # as Hydra's basic launcher leaves it; for no other is it worth the start
            draw(run_id)


# --- a job ----------------------------------------------------------------------------------------------------------


def run_task(number: int) -> None:
    """Run a job of the sweep that this process belongs to, as Hydra's launchers other than ours have it.

    A job that fails raises nothing, so that the others run; its state is in MLflow, its reason is printed.
    """
    job, _ = _load(number)
    if _is_stopped(_folder()):
        return
    started = time.monotonic()
    for _ in range(1 + job.config.sweep.retries):
        outcome = run_entry(number)
        if outcome.is_done:
            break
    if _current:
        _current.finished(number, outcome, time.monotonic() - started)
    elif not outcome.is_done:
        print(f"{job.name}: {outcome.reason}", file=sys.stderr)
    if not outcome.is_done and job.config.sweep.on_error == "stop":
        stop()


def run_entry(number: int) -> Outcome:
    """Try a job of the sweep that this process belongs to, unless it is done; a failure is an outcome too."""
    job, parent_id = _load(number)
    reason = ""
    try:
        run_job(job, parent_id)
    except (UserError, TrainingError) as error:
        reason = str(error)
    except (Exception, SystemExit) as error:  # its traceback is with its run
        reason = f"{type(error).__name__}: {error}"
    return outcome_of(job, parent_id, reason)


def run_job(job: Job, parent_id: str) -> str:
    """Run a job as the child of a sweep: in its own run if it has one that is not finished.

    Returns:
        The id of its run.

    Raises:
        ConfigError: the code has been edited since the sweep started.
        UserError, TrainingError: as experiment.run.
    """
    from experiments import experiment

    if identity(job.config, job.data_digest)["fingerprint"] != job.fingerprint:
        raise ConfigError("The project's code or packages have changed since the sweep started. Start it again.")
    deadline = time.monotonic() + PATIENCE
    earlier = outcome_of(job, parent_id)
    while earlier.status == "RUNNING" and time.monotonic() < deadline:  # its process checkpoints, and ends
        time.sleep(0.5)
        earlier = outcome_of(job, parent_id)
    if earlier.run_id and earlier.is_done:
        return earlier.run_id
    watch = study.pruning_watch(job.trial, job.config.training.epochs) if job.trial else None
    config, overrides = _begun(job, earlier.run_id) if earlier.run_id else (job.config, job.overrides)
    return experiment.run(config, overrides, {"mlflow.parentRunId": parent_id}, earlier.run_id, watch)


def _begun(job: Job, run_id: str) -> tuple[Config, list[str]]:
    """What the job's run was started with, as it recorded it; data and store are where this command says.

    The command of today may be another in what cannot change a result, such as `report.style`.
    """
    try:
        config, overrides = resume.recorded(tracking.resolve_uri(job.config.tracking.uri), run_id)
    except StoreError:  # it was cut off before it had recorded them
        return job.config, job.overrides
    store = replace(config.tracking, uri=job.config.tracking.uri)
    place, began = ([o for o in given if o.startswith("data.path=")] for given in (job.overrides, overrides))
    overrides = [*(o for o in overrides if o not in began), *place]
    return replace(config, data=job.config.data, tracking=store), overrides


def draw(run_id: str) -> None:
    """Draw the whole report of a run of the sweep that this process belongs to, as far as that is possible."""
    job, _ = _load(0)
    try:
        evaluate.draw(run_id, tracking.resolve_uri(job.config.tracking.uri))
    except Exception as error:  # the sweep has done its work
        say_not_drawn(run_id, error)


def say_not_drawn(run_id: str, reason: object) -> None:
    print(f"The figures of the best run {run_id} could not be drawn: {reason}", file=sys.stderr)


def outcome_of(job: Job, parent_id: str, reason: str = "") -> Outcome:
    """What came of a job; `reason` is that of a failure which left no run."""
    uri = tracking.resolve_uri(job.config.tracking.uri)
    outcome = sweep_plan.children(uri, parent_id, job.fingerprint).get(job.fingerprint, NOTHING)
    return outcome if outcome.reason or outcome.is_done else replace(outcome, reason=reason)


def end(job: Job, parent_id: str, status: str, reason: str) -> Outcome:
    """Give the run of a job whose process is gone its status and the reason."""
    outcome = outcome_of(job, parent_id)
    if outcome.run_id and outcome.status != "FINISHED":
        uri = tracking.resolve_uri(job.config.tracking.uri)
        tracking.end(tracking.connect(uri), outcome.run_id, status, reason)
    return outcome_of(job, parent_id, reason)


def stop() -> None:
    """Start no further job of the sweep."""
    (_folder() / "stop").touch()


def _is_stopped(folder: Path) -> bool:
    return (folder / "stop").exists()


def _folder() -> Path:
    return Path(os.environ[summary.SWEEP])


def _load(number: int) -> tuple[Job, str]:
    """A job of the frozen plan, and the id of the parent run."""
    record = json.loads((_folder() / f"{number}.json").read_text())
    return Job(**{**record, "config": validate(record["config"])}), _folder().name
