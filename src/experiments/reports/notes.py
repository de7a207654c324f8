"""The note on a run's page in MLflow, in Markdown: the result, what was trained on what, and the next commands."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.config.composition import compose_job
from experiments.config.data_schema import LinearData, OwnData
from experiments.config.identity import affects_result, config_to_dict, flatten_config
from experiments.config.metrics import RUN_METRICS, find_metric, higher_is_better, metric_names
from experiments.config.model_schema import KerasConfig
from experiments.config.schema import Config
from experiments.formatting import escape_markdown, markdown_code, plural, printable
from experiments.reports.differences import differences_from_defaults
from experiments.reports.next_commands import next_commands
from experiments.training.devices import peak_gpu_memory
from experiments.training.trainer import improvement

if TYPE_CHECKING:
    import keras

    from experiments.data.datasets import Dataset
    from experiments.reports.report import Results
    from experiments.training.network_cache import CompiledNetwork


NOTE_TAG = "mlflow.note.content"
WORST_CLASSES = 3
SHOWN_CLASSES = 10  # of those without a training image
BALANCED_RATIO = 20  # of the largest class to the smallest
NOTE_PICTURES = 3  # the first ones of the report

DATASET_NOTES = {
    "digits": "The test digits were written by other people than the training digits, which makes them harder."
}


def unfinished_note(
    config: Config, dataset: "Dataset", network: "CompiledNetwork | Results", overrides: Sequence[str], run_id: str
) -> str:
    """Return the note of a run without a result yet; it stays if the run is cut off."""
    commands = _code_block(next_commands(config, overrides, run_id))
    return "\n\n".join(
        ["**Not finished.**", *_describe_training(config, dataset, network.model, network.start), commands]
    )


def run_note(results: "Results", metrics: Mapping[str, float], overrides: Sequence[str], run_id: str) -> str:
    """Return the note of a finished run.

    MLflow shows about five lines, and the rest after a click on "Show more", so the result comes first.
    """
    from experiments.reports.report import report_figures

    config = results.config
    blocks = [
        describe_result(results, metrics),
        *describe_goal(results),
        *_describe_training(config, results.dataset, results.model, results.start),
        *_describe_worst_classes(results),
        *_describe_neuron(config),
        _code_block(next_commands(config, overrides, run_id)),
    ]
    for picture in list(report_figures(results))[:NOTE_PICTURES]:
        file = f"figures/{picture}.png"
        # The address is relative to the page, so that it works on any server, even behind a prefix.
        blocks.append(f"![{file}](get-artifact?path={file}&run_uuid={run_id})")
    return "\n\n".join(blocks)


def _describe_training(config: Config, dataset: "Dataset", model: "keras.Model", start: str) -> list[str]:
    """Describe what was trained on what, and how that differs from the defaults."""
    held_out = len(dataset.validation.targets)
    picked = f"fold {config.data.fold} of {config.data.folds}, " if config.data.folds else ""
    validation = f" ({picked}{held_out:,} held out for validation)" if held_out else ""
    differences = [printable(text).replace("`", "'") for text in differences_from_defaults(config)]
    about_data = " ".join(filter(None, [DATASET_NOTES.get(dataset.name), *_describe_balance(dataset)]))
    frozen = model.count_params() - sum(layer.count_params() for layer in model.layers if layer.trainable)
    network = config.model.application if isinstance(config.model, KerasConfig) else config.model.name
    kept = f" ({frozen:,} of them frozen)" if config.training.freeze else ""
    return [
        f"**{network}** with {plural(model.count_params(), 'weight')}{kept}, trained on"
        f" {len(dataset.train.targets):,} examples of **{dataset.name}**{validation} with {config.optimizer.name},"
        f" learning rate {config.optimizer.learning_rate:g}, batch size {config.training.batch_size},"
        f" seed {config.seed}." + (f" {about_data}" if about_data else ""),
        *([escape_markdown(start)] if start else []),
        *_describe_own_data(config, dataset),
        f"Differs from the defaults: {', '.join(f'`{text}`' for text in differences) or 'nothing'}.",
    ]


def _describe_own_data(config: Config, dataset: "Dataset") -> list[str]:
    """Describe what was found in the user's own data, and how it was read."""
    data = config.data
    if not isinstance(data, OwnData):
        return []
    counts = [np.bincount(split.targets, minlength=data.classes) for split in (dataset.train, dataset.test)]
    per_class = zip(map(escape_markdown, data.class_names), *counts, strict=True)
    names = [f"**{name}** {train:,} and {test:,}" for name, train, test in per_class]
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    mean, deviation = (
        " ".join(f"{number:.4g}" for number in np.ravel(value)[:SHOWN_CLASSES])
        for value in (data.mean, data.standard_deviation)
    )
    shape = " x ".join(map(str, data.shape))
    return [
        f"Data: {escape_markdown(dataset.source)}, inputs of {shape}. Examples to train and to test on"
        f" in {data.classes} classes: {', '.join(names[:SHOWN_CLASSES])}{more}. Inputs are divided by {data.pixel_max};"
        f" then their mean is {mean}, their standard deviation {deviation}. {escape_markdown(dataset.reading)}"
    ]


def _describe_balance(dataset: "Dataset") -> list[str]:
    """Say which classes have no training image, or how far the smallest one is from the largest."""
    names = [escape_markdown(name) for name in dataset.class_names]
    if not names:
        return []
    counts = np.bincount(dataset.train.targets, minlength=len(names))
    absent = [f"**{names[label]}**" for label in np.flatnonzero(counts == 0)]
    largest, smallest = counts.argmax(), np.where(counts, counts, counts.max()).argmin()
    sentences = []
    if absent:
        more = f" and {len(absent) - SHOWN_CLASSES} more" if len(absent) > SHOWN_CLASSES else ""
        which = "Class" if len(absent) == 1 else "Classes"
        sentences.append(f"{which} without a training image: {', '.join(absent[:SHOWN_CLASSES])}{more}.")
    if counts[largest] > BALANCED_RATIO * counts[smallest]:
        sentences.append(
            f"The classes are not balanced: **{names[largest]}** has {plural(counts[largest], 'training image')},"
            f" **{names[smallest]}** has {counts[smallest]:,}."
        )
    return sentences


def describe_result(results: "Results", metrics: Mapping[str, float]) -> str:
    """Describe the metrics in the table that have a title and are preferred: the first with what it was measured on."""
    targets = results.dataset.test.targets
    about = f"on {len(targets):,} test examples"
    if not isinstance(results.config.data, LinearData):
        wrong = np.count_nonzero(results.test.outputs.argmax(1) != targets)
        about = f"({wrong:,} of {len(targets):,} wrong)"
    about += f" after {plural(len(results.history['loss']), 'epoch')} in {metrics['train_seconds']:.1f} s"
    if peak := peak_gpu_memory():
        about += f", with at most {peak / 2**20:,.0f} MiB of GPU memory"
    first, *others = _titled(metrics, "test_", "test ")
    best = _titled(metrics, "best_val_", "best validation ")
    best[:1] = [f"{text}, in epoch {metrics['best_epoch']:.0f}" for text in best[:1]]
    learned = [f"{m.title} **{m.shown.format(metrics[m.name])}**" for m in RUN_METRICS if m.title and m.name in metrics]
    sentences = [f"**{first[0].upper()}{first[1:]}** {about}", *others, *best, *learned]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _titled(metrics: Mapping[str, float], prefix: str, words: str) -> list[str]:
    return [
        f"{words}{metric.title.lower()} {metric.shown.format(metrics[name])}"
        for name in metric_names(prefix, ranked_only=True)
        if name in metrics and (metric := find_metric(name)) and metric.column
    ]


def describe_goal(results: "Results") -> list[str]:
    """Describe whether training reached `early_stopping.goal`, if there is one."""
    stopping, epochs = results.config.training.early_stopping, len(results.history["loss"])
    if stopping.goal is None:
        return []
    value = results.history[stopping.metric][-1]
    reached = improvement(stopping.metric, value, stopping.goal) >= 0
    wanted = f"at {'least' if higher_is_better(stopping.metric) else 'most'} {stopping.goal:g}"
    outcome = f"Goal reached in epoch {epochs}" if reached else f"Goal NOT reached in {plural(epochs, 'epoch')}"
    return [f"{outcome}: {stopping.metric} {value:.4g}, wanted {wanted}."]


def _describe_worst_classes(results: "Results") -> list[str]:
    """Describe the classes with the largest error, and what they are most often taken for."""
    if isinstance(results.config.data, LinearData):
        return []
    names = [escape_markdown(name) for name in results.dataset.class_names]
    actual, predicted = results.dataset.test.targets, results.predicted
    confusion = np.bincount(actual * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), -1)
    examples = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    errors = confusion.sum(1)
    rate = errors / np.maximum(examples, 1)
    items = [
        f"- **{names[label]}**: {errors[label]:,} of {examples[label]:,} wrong ({rate[label]:.2%}), most often taken"
        f" for {names[confusion[label].argmax()]} ({plural(confusion[label].max(), 'time')})"
        for label in np.argsort(-rate, kind="stable")[:WORST_CLASSES]
        if errors[label]
    ]
    return ["Worst classes:", "\n".join(items)] if items else []


def _describe_neuron(config: Config) -> list[str]:
    if not (config.model.name == "neuron" and isinstance(config.data, LinearData)):
        return []
    measured = flatten_config(config_to_dict(compose_job(["experiment=single_neuron"])))  # with the numbers below
    changed = {key for key, value in flatten_config(config_to_dict(config)).items() if measured.get(key) != value}
    if any(affects_result(key) for key in changed - {"seed", "training.threads"}):
        return [
            f"The points lie around y = {config.data.slope:g} x. The learned weight need not equal that slope: the"
            " optimizer may not have converged, and a nonlinear activation bends the line."
        ]
    return [
        "**Why the weight is not 0.8.** For two reasons: 50 epochs of Adam have not converged, and tanh bends the line:"
        " for the line without noise the best weight is 0.977 and the best bias -0.036.",
        "Plain Keras gets the same: after 50 epochs on these 1,000 points its weight is 0.586 to 0.635 and its bias"
        " 0.130 to 0.157 (three seeds; this program: 0.584 to 0.629 and 0.136 to 0.155). On the tutorial's own points,"
        " drawn by another generator, they are 0.60 to 0.64 and 0.115 to 0.129.",
    ]


def _code_block(commands: Mapping[str, str]) -> str:
    """Return each command below what it does: on one line they would be wider than the page's column."""
    return markdown_code("\n".join(f"# {action}\n{command}" for action, command in commands.items()))
