"""Recipes: named sets of defaults. What a caller says himself goes before what the recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, model_validator


class WithRecipes(BaseModel):
    """Base of parameters with a field `recipe`, whose default is the recipe that the other fields' defaults make.

    Attributes:
        RECIPES: of each other recipe, its name, the values that differ from the defaults, by field.
    """

    RECIPES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(name := given.get("recipe"), str):
            return given
        return {**cls.RECIPES.get(name, {}), **given}  # An unknown name is refused by the field.
