"""The base of all file formats."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base of all file formats: unknown keys, wrong types and NaN are errors; values never change once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)
