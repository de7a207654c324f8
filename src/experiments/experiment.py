"""The story of one run, from config to closed MLflow run, top to bottom on one screen."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from experiments import data, environment, models, optimizers, report, runtime, summary, tracking, training
from experiments.config import PROJECT, Config, Linear, as_dict, fingerprint, flatten
from experiments.progress import Progress


def run(config: Config, overrides: Sequence[str]) -> str:
    """Train what the config describes, record it in MLflow, and say what came out.

    Args:
        config: validated.
        overrides: what was given on the command line; recorded, and the run is named by them.

    Returns:
        The id of the MLflow run.

    Raises:
        UserError: data or store cannot be used; no run was made.
        TrainingError: the loss is not finite; the run is FAILED and keeps what was logged.
    """
    dataset = data.load(config.data, config.seed)
    runtime.start(int(config.training.threads))
    model = models.build(config)
    optimizer = optimizers.build(config.optimizer)
    evaluate = training.Evaluator(model, config.training.loss)
    untrained = evaluate(dataset.train).outputs if isinstance(config.data, Linear) else None
    epochs, batch_size, examples = config.training.epochs, config.training.batch_size, len(dataset.train.targets)
    steps = -(-examples // batch_size)
    rates = optimizers.learning_rates(config.schedule, config.optimizer.learning_rate, steps, epochs)
    code = environment.code()
    tags = {"fingerprint": fingerprint(config, dataset.digest), "data_digest": dataset.digest, **code.tags}

    uri, name = tracking.resolve_uri(config.tracking.uri), config.tracking.run_name or summary.name(config, overrides)
    with tracking.open_run(uri, config.tracking.experiment, name, params(config), tags) as run:
        record(run, config, overrides, dataset, code)
        history: dict[str, list[float]] = {}
        with Progress(epochs, steps, examples) as progress:
            for epoch, metrics in enumerate(
                training.train(
                    model,
                    optimizer,
                    config.training.loss,
                    rates,
                    dataset.train,
                    dataset.validation,
                    batch_size,
                    config.seed,
                    progress,
                ),
                start=1,
            ):
                run.log_metrics(metrics, epoch)
                for metric, value in metrics.items():
                    history.setdefault(metric, []).append(value)
        results = report.Results(config, dataset, model, history, untrained, evaluate(dataset.test))
        final = report.final_metrics(results)
        run.log_metrics(final, epochs)
        publish(run, results)
        run.set_tags({"mlflow.note.content": summary.note(results, final, overrides, run.run_id)})
    summary.show(results, final, run)
    return run.run_id


def params(config: Config) -> dict[str, object]:
    """The config as MLflow's params: flat and dotted. The files' checksums are in the artifact only."""
    return {key: value for key, value in flatten(as_dict(config)).items() if key != "data.checksums"}


def record(
    run: tracking.Run, config: Config, overrides: Sequence[str], dataset: data.Dataset, code: environment.Code
) -> None:
    """Log what the run is made of: data, config, and the environment that repeating it needs."""
    counts = {name: len(getattr(dataset, name).targets) for name in ("train", "validation", "test")}
    run.log_dataset(dataset.name, dataset.digest, dataset.source, counts)
    texts = {
        "config/config.yaml": yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True),
        "config/overrides.yaml": yaml.safe_dump(list(overrides), allow_unicode=True),
        "environment/packages.txt": environment.packages(),
        "environment/hardware.json": json.dumps(environment.hardware(), indent=2),
        "environment/requirements.lock": (PROJECT / "requirements.lock").read_text(),
        "environment/uncommitted.diff": code.diff,
    }
    with TemporaryDirectory() as folder:
        for path, text in texts.items():
            target = Path(folder, path)
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
        run.log_artifacts(Path(folder))


def publish(run: tracking.Run, results: report.Results) -> None:
    """Log what the run came to: figures, tables, predictions and the model."""
    with TemporaryDirectory() as folder:
        report.write_figures(results, Path(folder))
        run.log_artifacts(Path(folder), "figures")
    for name, columns in report.tables(results).items():
        run.log_table(columns, f"tables/{name}.json")
    run.log_text(report.predictions(results), "predictions/test.csv")
    if results.config.tracking.log_model:
        test = results.dataset.test
        run.log_model(results.model, test.inputs[:1], results.test.outputs[:1])
