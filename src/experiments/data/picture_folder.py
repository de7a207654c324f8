"""A folder of the user's own pictures: which classes and splits it has, and the arrays of its pictures."""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.data_schema import PicturesData
from experiments.data.arrays import check_facts
from experiments.data.picture_cache import PictureEntry, cached_pictures, list_pictures
from experiments.data.picture_files import PictureStyle
from experiments.data.splits import OfficialSplits, Split, pick_test_rows
from experiments.errors import DataError
from experiments.formatting import is_plain_text, plural, printable, shorten
from experiments.runtime import expand_home

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
HIDDEN = (".", "__MACOSX")  # what the names of files and folders begin with that are not the user's
EXPECTED_FOLDER = "a folder of pictures for each class, FOLDER/CLASS/*.png or jpg, maybe below train, test and val"
PICTURE_STREAM = 104  # second word of the generator's seed; data/splits.py has the others
SHOWN_FILES = 3  # of those that are ignored


@dataclass(frozen=True)
class PictureNames:
    """The pictures of a folder: paths within it, with their labels, by split."""

    class_names: list[str]
    splits: dict[str, list[tuple[str, int]]]  # train, and test and val if there are such folders
    ignored: list[str]  # files that are not pictures


def find_picture_facts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the facts of the folder that a group `data` names, or raise a DataError if it cannot be used."""
    settings = [data[key] for key in ("path", "size", "fit", "color", "test_fraction", "split_seed")]
    return _read_folder(True, *settings).facts


def read_pictures(config: PicturesData) -> OfficialSplits:
    """Read the pictures of a config, or raise a DataError if they cannot be used or have other facts."""
    settings = config.path, config.size, config.fit, config.color, config.test_fraction, config.split_seed
    official = _read_folder(False, *settings)
    check_facts(official, config)
    return official


def find_picture_folder(config: PicturesData) -> Path:
    """Return the folder of a config, or raise a DataError if there is none."""
    return _existing_folder(config.path)


def _existing_folder(path: str | None) -> Path:
    if path is None:
        raise DataError(f"data=images needs the folder to read: data.path=FOLDER, {EXPECTED_FOLDER}.")
    folder = expand_home("data.path", path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"data.path={path} {what}. Expected {EXPECTED_FOLDER}.")
    return folder


def _read_folder(
    tell: bool, path: str | None, size: Any, fit: Any, color: bool | None, test_fraction: float, split_seed: int
) -> OfficialSplits:
    folder = _existing_folder(path)
    found = scan_pictures(folder)
    if tell and found.ignored:
        some = shorten(printable(", ".join(found.ignored[:SHOWN_FILES])), 200)
        more = ", ..." if len(found.ignored) > SHOWN_FILES else ""
        print(f"Ignoring {plural(len(found.ignored), 'file')} that are not pictures: {some}{more}", file=sys.stderr)
    train, test, validation = _divide_names(found, test_fraction, split_seed, str(folder))
    order = [*train, *validation, *test]
    names, labels = [name for name, _ in order], np.array([label for _, label in order], np.int32)
    entries = list_pictures(folder, names)
    size = (size, size) if isinstance(size, int) else tuple(size) if size else None
    if size is None:
        _check_one_size(entries, folder)
    color = any(entry.has_color for entry in entries.values()) if color is None else color
    pictures = cached_pictures(folder, entries, names, PictureStyle(size, fit, color), len(train))
    used = len(train) + len(validation)
    facts = {
        "shape": list(pictures.array.shape[1:]),
        "classes": len(found.class_names),
        "class_names": found.class_names,
        "train_examples": used,
        "test_examples": len(test),
        "pixel_max": 255,
        "mean": pictures.mean,
        "standard_deviation": pictures.standard_deviation,
        **({"validation": len(validation)} if validation else {}),
    }
    reading = f"Pictures: {_describe_sizes(entries, size, fit)}, read in {'colour' if color else 'grey'}."
    if "test" not in found.splits:
        reading += f" The test set is {test_fraction:g} of each class, picked by data.split_seed={split_seed}."
    splits = Split(pictures.array[:used], labels[:used]), Split(pictures.array[used:], labels[used:])
    return OfficialSplits(*splits, str(folder), facts, len(validation), reading, pictures.forget)


def scan_pictures(folder: Path) -> PictureNames:
    """List the pictures of each class, by name, or raise a DataError if the folders cannot be a dataset."""
    ignored: list[str] = []
    top = _visible(folder, folder, ignored)
    above = {name: SPLIT_FOLDERS[name] for name in top if name in SPLIT_FOLDERS and _has_folders(folder / name)}
    if above and "train" not in above.values():
        raise DataError(
            f"{folder} has {', '.join(sorted(above))} but not train. Put the other pictures into train/CLASS."
        )
    places = {name: above[name] for name in sorted(above)} if above else {"": "train"}
    if above:
        ignored += [f"{name}/" for name in top if name not in above]
    by_split = {split: _list_classes(folder, place, ignored) for place, split in places.items()}
    names = list(by_split["train"])
    if len(names) < 2:
        found = f"one class only, {names[0]!r}" if names else "no folders of pictures"
        raise DataError(f"{folder} has {found}. Expected {EXPECTED_FOLDER}, and at least two classes.")
    for split, classes in by_split.items():
        for name, pictures in classes.items():
            if not is_plain_text(name):
                raise DataError(f"{folder}: the name of the class {name!r} is not UTF-8. Rename the folder.")
            if name not in names:
                raise DataError(f"{folder} has the class {name!r} in {split} but not in train. Add it, or remove it.")
            if not pictures and split == "train":
                raise DataError(f"{folder} has no picture of the class {name!r}. Add some, or remove the folder.")
        if not any(classes.values()):
            raise DataError(f"{folder / split} has no pictures. Add some, or remove the folder.")
    splits = {
        split: [(picture, names.index(name)) for name, pictures in classes.items() for picture in pictures]
        for split, classes in by_split.items()
    }
    return PictureNames(names, splits, list(dict.fromkeys(ignored)))


def _visible(folder: Path, root: Path, ignored: list[str]) -> list[str]:
    """Return the folders within one, by name; its files are ignored."""
    with os.scandir(folder) as entries:
        shown = sorted((entry for entry in entries if not entry.name.startswith(HIDDEN)), key=lambda each: each.name)
    ignored += [os.path.relpath(entry.path, root) for entry in shown if not entry.is_dir()]
    return [entry.name for entry in shown if entry.is_dir()]


def _has_folders(folder: Path) -> bool:
    return bool(_visible(folder, folder, []))


def _list_classes(root: Path, place: str, ignored: list[str]) -> dict[str, list[str]]:
    """Return the pictures of each class below a folder, as paths within the root."""
    classes: dict[str, list[str]] = {}
    for name in _visible(root / place, root, ignored):
        within = os.path.join(place, name)  # noqa: PTH118
        with os.scandir(root / within) as entries:
            files = sorted(entry.name for entry in entries if not entry.name.startswith(HIDDEN))
        pictures = [file for file in files if file.lower().endswith(SUFFIXES)]
        ignored += [f"{within}/{file}" for file in files if not file.lower().endswith(SUFFIXES)]
        classes[name] = [f"{within}/{picture}" for picture in pictures]
    return classes


def _divide_names(
    found: PictureNames, test_fraction: float, split_seed: int, source: str
) -> list[list[tuple[str, int]]]:
    """Return the pictures to train, test and validate on, each in an order that mixes the classes."""
    splits = {split: list(pictures) for split, pictures in found.splits.items()}
    if "test" not in splits:
        train = splits["train"]
        rows = set(pick_test_rows(np.array([label for _, label in train]), test_fraction, split_seed, source).tolist())
        splits["test"] = [picture for row, picture in enumerate(train) if row in rows]
        splits["train"] = [picture for row, picture in enumerate(train) if row not in rows]
    mixed = []
    for number, split in enumerate(("train", "test", "val")):
        pictures = splits.get(split, [])
        order = np.random.default_rng([split_seed, PICTURE_STREAM, number]).permutation(len(pictures))
        mixed.append([pictures[row] for row in order])
    return mixed


def _check_one_size(entries: Mapping[str, PictureEntry], folder: Path) -> None:
    sizes = Counter((entry.height, entry.width) for entry in entries.values())
    if len(sizes) > 1:
        examples: dict[tuple[int, int], str] = {}
        for name, entry in entries.items():
            examples.setdefault((entry.height, entry.width), name)
        shown = [f"{height} x {width} ({examples[height, width]})" for (height, width), _ in sizes.most_common(2)]
        raise DataError(
            f"{folder} has pictures of {len(sizes):,} sizes, such as {' and '.join(shown)}. Say which size they get:"
            " data.size=64, or data.size=[HEIGHT,WIDTH]"
        )


def _describe_sizes(entries: Mapping[str, PictureEntry], size: tuple[int, ...] | None, fit: str) -> str:
    heights, widths = ([getattr(entry, side) for entry in entries.values()] for side in ("height", "width"))
    if size is None:
        return f"{heights[0]} x {widths[0]} pixels, kept as they are"
    how = {"crop": "the middle cut out", "pad": "padded with black"}[fit]
    low, high = f"{min(heights)} x {min(widths)}", f"{max(heights)} x {max(widths)}"
    return f"{low if low == high else f'{low} to {high}'} pixels, scaled to {size[0]} x {size[1]}, {how}"
