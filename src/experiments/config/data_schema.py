"""The group `data` of a config: which examples to learn from."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from experiments.config.fields import (
    STRICT_FIELDS,
    Count,
    ExampleCount,
    Fraction,
    Positive,
    PositiveFloat,
    Rate,
    Seed,
    described,
)
from experiments.config.keras_table import refusal, split_named
from experiments.config.own_schema import check_own_arguments
from experiments.config.registry import own_functions
from experiments.errors import did_you_mean, join_sorted


@dataclass(config=STRICT_FIELDS, kw_only=True)
class SplitConfig:
    """What all datasets share: how many examples there are, and which are used for what."""

    name: str
    validation: Count = described(
        "number of training examples held out for validation, by seed, or a fraction below 1; 0 trains on all"
    )
    folds: Annotated[int, Field(ge=2)] | None = described(
        "parts of the training split, each with its share of every class, for cross-validation: 2 or more, or null"
    )
    fold: Count | None = described("which of these parts is for validation, from 0 to data.folds - 1, or null")
    split_seed: Seed = described("what picks the parts, and a test set if the data has none, from 0 to 4294967295")
    limit: Positive | None = described("number of training examples to use, the first ones, 1 or more, or null for all")
    train_examples: ExampleCount = described("number of examples in the official training split, from 1 to 10 million")
    test_examples: ExampleCount = described("number of examples in the official test split, from 1 to 10 million")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class LinearData(SplitConfig):
    """A line with noise, generated: y = slope * x + N(0, noise), x in [0, 1]."""

    name: Literal["linear"]
    shape: list[Annotated[int, Field(ge=1, le=1)]] = Field(
        min_length=1, max_length=1, description="shape of one input, always [1]"
    )
    slope: float = described("slope of the line, a finite number")
    noise: float = Field(ge=0, description="standard deviation of the noise, 0 or more")


def check_own_augmentation(value: Any) -> Any:
    name, arguments = split_named(value, "augmentation")
    known = own_functions("augmentation")
    if name not in known:
        which = f"choices: {join_sorted(known)}" if known else "none is loaded; add --code FOLDER"
        raise refusal(f"your own code has no augmentation {name!r}{did_you_mean(name, known)}; {which}")
    check_own_arguments(known[name], arguments)
    return value


@dataclass(config=STRICT_FIELDS, kw_only=True, frozen=True)
class AugmentationConfig:
    """Random changes to each training image, drawn again in every epoch."""

    shift: float = Field(ge=0, description="largest move along each axis, in pixels, 0 (none) or more")
    rotation: float = Field(ge=0, le=180, description="largest turn either way, in degrees, 0 (none) to 180")
    scale: float = Field(ge=0, lt=1, description="largest change of size either way, a fraction, 0 (none) to below 1")
    elastic: float = Field(ge=0, description="size of the field of elastic distortions, in pixels, 0 (none) or more")
    smoothness: PositiveFloat = described(
        "standard deviation in pixels of the Gaussian that smooths it, greater than 0"
    )

    flip: bool = described("mirror every second image, left to right: true or false")
    crop: Count = described("pixels of black around an image before its size is cut out anywhere, 0 (none) or more")
    color: Rate = described(
        "largest change of brightness, contrast and saturation either way, a fraction, 0 (none) to below 1"
    )

    own: list[Annotated[Any, AfterValidator(check_own_augmentation)]] = described(
        "functions of your own code, each a name or {NAME: {ARGUMENT: VALUE}}; [] for none"
    )

    @property
    def moves(self) -> bool:
        """Return whether pixels are moved to places between those of other pixels."""
        return any((self.shift, self.rotation, self.scale, self.elastic))

    def __bool__(self) -> bool:
        return any((self.moves, self.flip, self.crop, self.color, self.own))

    def __hash__(self) -> int:
        return hash(repr(self))  # `own` is a list


def check_channels(shape: list[int]) -> list[int]:
    if shape[2:] not in ([], [1], [3]):
        raise ValueError("figures can show 1 or 3 channels")
    return shape


FOUND = "null: found in the data"
ImageShape = Annotated[
    list[Positive],
    Field(min_length=2, max_length=3, description="height and width of an image, in pixels (and channels: 1 or 3)"),
    AfterValidator(check_channels),
]
InputShape = Annotated[
    list[Positive],
    Field(min_length=1, max_length=3, description=f"height and width (and channels), or numbers in a vector; {FOUND}"),
    AfterValidator(check_channels),
]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ImageData(SplitConfig):
    """Images with classes."""

    shape: ImageShape
    classes: int = Field(ge=2, description="number of classes, 2 or more")
    class_names: list[str] = described("one name per class, in the order of the labels")
    pixel_max: Positive = described("largest value of a pixel, 1 or more; pixels are divided by it")
    mean: float | list[float] = described(
        "subtracted from the pixels after that division: a finite number, or one for each channel"
    )
    standard_deviation: PositiveFloat | list[PositiveFloat] = described(
        "the pixels are then divided by it: greater than 0, or one for each channel"
    )
    padding: Count = described("pixels of background added around an image for the network, 0 or more")
    augmentation: AugmentationConfig = described("random changes to each training image: shift, rotation, ...")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class PublishedImageData(ImageData):
    """Images with classes that are the same everywhere."""

    checksums: dict[str, str] | None = described("file -> 'sha256:...' or 'md5-gzip:...', or null: any content")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class DigitsData(PublishedImageData):
    """The digits bundled with scikit-learn."""

    name: Literal["digits"]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ImageFileData(PublishedImageData):
    """Images with classes in MNIST's file format."""

    name: Literal["mnist", "fashion_mnist", "kmnist"]
    path: str | None = described("folder with the IDX or npz files, or null to search the usual places")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ArchiveData(PublishedImageData):
    """Images with classes that are published as one archive."""

    name: Literal["cifar10"]
    path: str | None = described("the archive or the folder with it, or null to search the usual places")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class EmnistData(ArchiveData):
    """Handwritten letters and digits in several selections."""

    name: Literal["emnist"]  # type: ignore[assignment]
    split: Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"] = described(
        "which selection: balanced, byclass, bymerge, letters, digits or mnist"
    )


@dataclass(config=STRICT_FIELDS, kw_only=True)
class OwnData(ImageData):
    """The user's own examples with classes, whose facts are found; see found_facts.py."""

    test_fraction: Fraction = described(
        "part of each class that is the test set if the data has none, greater than 0, less than 1"
    )


@dataclass(config=STRICT_FIELDS, kw_only=True)
class OwnFileData(OwnData):
    """The user's own files."""

    path: str | None = described("what to read, an npz file (arrays) or a folder (images); every run needs it")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ArraysData(OwnFileData):
    """Images or vectors in an npz file."""

    name: Literal["arrays"]
    shape: InputShape


@dataclass(config=STRICT_FIELDS, kw_only=True)
class OwnFunctionData(OwnData):
    """Images or vectors that a function of the user's own code returns, whose arguments are further keys."""

    shape: InputShape


Size = Positive | Annotated[list[Positive], Field(min_length=2, max_length=2)]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class PicturesData(OwnFileData):
    """Pictures in a folder for each class."""

    name: Literal["images"]
    size: Size | None = described(
        "height and width that pictures get, in pixels: a number for squares, [height,width], or null: kept as they are"
    )
    fit: Literal["crop", "pad"] = described(
        "how a picture of other proportions gets that size: crop (its middle) or pad (with black)"
    )
    color: bool | None = described("true (three channels), false (grey), or null: true if any picture has colour")


DataConfig = DigitsData | ImageFileData | ArchiveData | EmnistData | ArraysData | PicturesData | LinearData
