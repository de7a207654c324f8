"""Random changes to images: the effect of each on images of one dot, and their dependence on a counter."""

from typing import Any

import numpy as np
import pytest

from experiments.config.data_schema import AugmentationConfig
from experiments.runtime import start_tensorflow
from experiments.training.augmentation import Augmenter

start_tensorflow(1)

import tensorflow as tf  # noqa: E402

NONE: dict[str, Any] = {"shift": 0.0, "rotation": 0.0, "scale": 0.0, "elastic": 0.0, "smoothness": 4.0}
NONE |= {"flip": False, "crop": 0, "color": 0.0, "own": []}
MOVES = {"shift": 2.0, "rotation": 15.0, "scale": 0.15, "elastic": 30.0, "smoothness": 4.0}
EVERYTHING = MOVES | {"flip": True, "crop": 2, "color": 0.4}


def augmenter(shape: tuple[int, ...] = (21, 21), **settings: float) -> Augmenter:
    return Augmenter(AugmentationConfig(**(NONE | settings)), shape, 255)


def changed(augment: Any, images: np.ndarray, seed: int = 0, epoch: int = 1, step: int = 0, first: int = 0) -> Any:
    words = (tf.constant(word, tf.uint32) for word in (seed, epoch, step))
    return np.asarray(augment(tf.constant(images, tf.float32), *words, tf.constant(first)))


def dot(row: int, column: int, images: int = 100) -> np.ndarray:
    """Images of 21 x 21 with a bright dot; the middle is (10, 10)."""
    blank = np.zeros((images, 21, 21), np.float32)
    blank[:, row, column] = 200
    return blank


def centres(images: np.ndarray) -> np.ndarray:
    """Centre of mass of each image beside the middle, rows and columns [n, 2]."""
    places = np.arange(21) - 10
    weights = images / images.sum((1, 2), keepdims=True)
    return np.stack([(weights.sum(2) * places).sum(1), (weights.sum(1) * places).sum(1)], axis=1)


def test_no_augmentation_changes_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 21, 21)).astype(np.float32)
    np.testing.assert_array_equal(changed(augmenter(), images), images)


def test_shift_moves_each_image_independently_up_to_the_limit() -> None:
    images = changed(augmenter(shift=3.0), dot(10, 10, images=1000))
    np.testing.assert_allclose(images.sum((1, 2)), 200, rtol=1e-4)
    moves = centres(images)
    assert 2.9 < np.abs(moves).max() <= 3
    assert moves.mean(0) == pytest.approx([0, 0], abs=0.2)
    assert moves.std(0) == pytest.approx([3 / np.sqrt(3)] * 2, rel=0.1)


def test_rotation_turns_about_the_middle_up_to_the_limit_either_way() -> None:
    y, x = centres(changed(augmenter(rotation=30.0), dot(10, 18, images=1000))).T
    np.testing.assert_allclose(np.hypot(y, x), 8, atol=0.3)
    angles = np.degrees(np.arctan2(y, x))
    assert 28 < angles.max() < 31
    assert -31 < angles.min() < -28


def test_scale_resizes_about_the_middle() -> None:
    y, x = centres(changed(augmenter(scale=0.25), dot(10, 14, images=1000))).T
    np.testing.assert_allclose(y, 0, atol=1e-4)
    assert 2.9 < x.min() < 3.2
    assert 4.8 < x.max() < 5.1


def test_elastic_distortion_moves_neighbours_alike_and_distant_pixels_differently() -> None:
    augment = augmenter(elastic=30.0, smoothness=3.0)
    move = centres(changed(augment, dot(10, 10)))
    # A mean of uniform numbers (deviation 1 / sqrt(3)) under a Gaussian of deviation 3: 1 / (2 * 3 * sqrt(pi)) of that.
    assert move.std() == pytest.approx(30 / np.sqrt(3) / (6 * np.sqrt(np.pi)), rel=0.25)
    beside = centres(changed(augment, dot(10, 12))) - [0, 2]
    assert np.corrcoef(move[:, 0], beside[:, 0])[0, 1] > 0.7
    corner = centres(changed(augment, dot(3, 3)))
    assert abs(np.corrcoef(move[:, 0], corner[:, 0])[0, 1]) < 0.4


def test_flip_mirrors_half_of_the_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 4, 5, 3)).astype(np.float32)
    after = changed(augmenter((4, 5, 3), flip=True), images)
    mirrored = (after == images[:, :, ::-1]).all((1, 2, 3))
    assert ((after == images).all((1, 2, 3)) | mirrored).all()
    assert 440 < np.count_nonzero(mirrored) < 560


def test_crop_cuts_an_image_out_of_a_frame_of_background_at_every_place_equally_often() -> None:
    images = changed(augmenter(crop=2), dot(10, 10, images=2500))
    places, counts = np.unique(centres(images).round().astype(int), axis=0, return_counts=True)
    assert places.tolist() == [[y, x] for y in range(-2, 3) for x in range(-2, 3)]
    assert counts.min() > 60
    assert set(np.unique(images)) == {0, 200}
    full = changed(augmenter(crop=2), np.full((100, 21, 21), 9, np.float32))
    assert full.min() == 0
    assert (full.reshape(100, -1) == 9).mean(1).min() == 19 * 19 / 21**2


def test_color_changes_brightness_contrast_and_saturation_within_the_range_of_pixels() -> None:
    half = np.concatenate([np.full((500, 4, 2, 3), (60, 80, 100)), np.full((500, 4, 2, 3), (150, 130, 110))], axis=2)
    after = changed(augmenter((4, 4, 3), color=0.5), half)
    assert len(np.unique(after[:, 0, 0, 0])) > 490
    brightness = after.mean((1, 2, 3)) / half.mean()
    assert (brightness.min(), brightness.max()) == pytest.approx((0.5, 1.5), abs=0.05)
    spread = np.ptp(after, 3)[:, 0, 0] / (brightness * 40)
    assert (spread.min(), spread.max()) == pytest.approx((0.25, 2.25), abs=0.25)
    bright = changed(augmenter((4, 4, 3), color=0.9), np.full((100, 4, 4, 3), 250))
    assert (bright.min() >= 0, bright.max()) == (True, 255)
    grey = changed(augmenter((4, 4), color=0.5), np.full((100, 4, 4), 100))
    np.testing.assert_allclose(np.ptp(grey, (1, 2)), 0, atol=1e-4)


def test_flips_crops_and_colours_leave_the_moves_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 21, 21)).astype(np.float32)
    moved = changed(augmenter(**MOVES), images)
    np.testing.assert_array_equal(changed(augmenter(flip=True), moved), changed(augmenter(**MOVES, flip=True), images))


def test_pixels_from_outside_the_image_are_background() -> None:
    images = changed(augmenter(shift=5.0), np.full((50, 21, 21), 100, np.float32))
    assert images.min() == 0
    assert images.max() == pytest.approx(100, rel=1e-5)


def test_augmentation_is_a_function_of_seed_epoch_step_and_row() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 21, 21)).astype(np.float32)
    augment = augmenter(**EVERYTHING)
    first = changed(augment, images)
    np.testing.assert_array_equal(changed(augment, images), first)
    np.testing.assert_array_equal(changed(augment, images[6:], first=6), first[6:])
    for other in ({"seed": 1}, {"epoch": 2}, {"step": 1}, {"first": 1}):
        assert np.abs(changed(augment, images, **other) - first).mean() > 1


def test_augmentation_is_the_same_eagerly_in_a_graph_and_under_xla() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 21, 21)).astype(np.float32)
    augment = augmenter(**EVERYTHING)
    for xla in (False, True):
        graph = tf.function(augment, jit_compile=xla)
        np.testing.assert_allclose(changed(graph, images), changed(augment, images), atol=0.02)


def test_equal_augmenters_can_share_a_program() -> None:
    assert len({augmenter(**EVERYTHING), augmenter(**EVERYTHING)}) == 1
    assert len({augmenter(), augmenter((22, 21)), augmenter(shift=1.0)}) == 3


def test_all_channels_are_changed_alike() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 21, 21)).astype(np.float32)
    coloured = changed(augmenter((21, 21, 2), **MOVES), np.stack([grey, grey / 2], axis=-1))
    np.testing.assert_allclose(coloured[..., 0], changed(augmenter(**MOVES), grey), atol=1e-3)
    np.testing.assert_allclose(coloured[..., 1], coloured[..., 0] / 2, atol=1e-3)
