"""The types of the config's fields that several groups share."""

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from experiments.config.keras_checks import allow_null, keras_name_check, keras_object_check

STRICT_FIELDS = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

LARGEST_SEED = 2**32 - 1


def wrap_number(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
ExampleCount = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
ActivationName = Annotated[str, AfterValidator(keras_name_check("activations"))]
InitializerValue = Annotated[Any, AfterValidator(keras_object_check("initializers"))]
RegularizerValue = Annotated[Any, AfterValidator(allow_null(keras_object_check("regularizers")))]
ConstraintValue = Annotated[Any, AfterValidator(allow_null(keras_object_check("constraints")))]


def described(description: str) -> Any:
    return Field(description=description)
