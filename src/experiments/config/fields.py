"""Field types that several groups of the config share."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

STRICT_FIELDS = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

LARGEST_SEED = 2**32 - 1

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
ExampleCount = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


def described(description: str) -> Any:
    return Field(description=description)
