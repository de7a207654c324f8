"""The weights from which a network starts, where they are not drawn by seed: of a run's model, or of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.errors import ConfigError, StoreError
from experiments.formatting import plural, shorten_middle
from experiments.training.network_builders import keras_errors

if TYPE_CHECKING:
    import keras

SHOWN_SHAPES = 16  # of weights, in a message


@dataclass(frozen=True)
class InitialWeights:
    """The weights of each layer, by its name."""

    setting: str  # that asked for them, such as model.weights=FILE
    layers: Mapping[str, Sequence[np.ndarray]]  # of a model in its order
    hdf5_file: Path | None = None  # that they are from; in it, layers have no order, and Keras finds them by their kind


def weights_of_model(model: "keras.Model", setting: str) -> InitialWeights:
    return InitialWeights(setting, {layer.name: layer.get_weights() for layer in model.layers})


def read_hdf5_weights(file: Path, setting: str, largest: int) -> InitialWeights:
    """Read the layers with weights of their own from a file that Keras saved, `.weights.h5` or an earlier `.h5`.

    Raise a StoreError if it is damaged or its weights take more than `largest` bytes.
    """
    import h5py

    try:
        with h5py.File(file, "r") as opened:
            items: dict[str, Any] = {}
            opened.visititems(items.__setitem__)
            if sum(item.nbytes for item in items.values() if isinstance(item, h5py.Dataset)) > largest:
                raise StoreError(f"{setting} is not used: its weights take far more room than the file has bytes.")
            return InitialWeights(setting, dict(_hdf5_layers(opened)), file)
    except StoreError:
        raise
    except Exception as error:  # anything may have been put into the file
        raise StoreError(f"{setting} is not a file of weights that Keras saved: {error}") from None


def _hdf5_layers(opened: Any) -> list[tuple[str, list[np.ndarray]]]:
    """Return names and weights of layers; not of those made of further layers, whose order the file does not tell."""
    root = opened.get("model_weights", opened)
    if "layer_names" in root.attrs:  # of Keras 2, as the files of keras.applications are
        groups = {_as_text(name): root[_as_text(name)] for name in root.attrs["layer_names"]}
        return [
            (name, [group[_as_text(path)][()] for path in group.attrs["weight_names"]])
            for name, group in groups.items()
        ]
    own = [group["vars"] for group in root["layers"].values() if set(group) == {"vars"}]
    return [(_as_text(each.attrs["name"]), [each[str(n)][()] for n in range(len(each))]) for each in own if len(each)]


def _as_text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def start_from(model: "keras.Model", initial: InitialWeights, layers: Literal["all", "matching"]) -> str:
    """Give a model weights to start from: `all`, or those of layers with the same name and shapes there.

    Return a sentence about which layers were taken, empty if all. Raise a ConfigError if the weights do not fit.
    """
    if layers == "matching":
        return _take_matching(model, initial)
    if initial.hdf5_file:
        with keras_errors(f"{initial.setting} does not fit model={model.name}:"):
            model.load_weights(initial.hdf5_file)
        return ""
    weights = [value for values in initial.layers.values() for value in values]
    given, expected = ([tuple(value.shape) for value in values] for values in (weights, model.weights))
    if given != expected:
        fitting = next((n for n, (a, b) in enumerate(zip(given, expected, strict=False)) if a != b), len(expected))
        skipped = fitting if fitting > SHOWN_SHAPES else 0
        after = f", after {skipped:,} that fit," if skipped else ""
        found, needed = _show_shapes(given[skipped:]), _show_shapes(expected[skipped:])
        raise ConfigError(
            f"{initial.setting} does not fit: its weights have the shapes{after} {found}, but this network needs"
            f" {needed}. Use the data and model settings with which they were trained, or model.weights_of=matching for"
            " the layers that are the same"
        )
    model.set_weights(weights)
    return ""


def _take_matching(model: "keras.Model", initial: InitialWeights) -> str:
    taken, drawn = [], []
    for layer in model.layers:
        shapes = [tuple(value.shape) for value in layer.weights]
        given = initial.layers.get(layer.name, [])
        if shapes and [tuple(value.shape) for value in given] == shapes:
            layer.set_weights(given)
            taken.append(layer.name)
        elif shapes:
            drawn.append(layer.name)
    if not taken:
        there = [name for name, values in initial.layers.items() if len(values)]
        raise ConfigError(
            f"{initial.setting} has no layer with the name and shapes of one of this network. Its layers:"
            f" {shorten_middle(', '.join(there) or 'none', 300)}. Those of this network:"
            f" {shorten_middle(', '.join(drawn), 300)}"
        )
    rest = shorten_middle(", ".join(drawn), 300)
    sentence = f"{len(taken)} of {plural(len(taken) + len(drawn), 'layer')} with weights start from {initial.setting}"
    return f"{sentence}; drawn by seed: {rest}." if drawn else f"{sentence}."


def _show_shapes(shapes: list[tuple[int, ...]]) -> str:
    shown = ["x".join(map(str, shape)) or "1" for shape in shapes[:SHOWN_SHAPES]]
    more = f" and {len(shapes) - SHOWN_SHAPES:,} more" if len(shapes) > SHOWN_SHAPES else ""
    return ", ".join(shown) + more or "none"
