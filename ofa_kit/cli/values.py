"""The values of a recipe as a command line gives them: a file, single options over it, --set over all."""

from collections.abc import Mapping
from typing import Any

from ofa_kit.config import find_profile, read_yaml


def read_values(recipe: str | None, given: Mapping[str, Any], settings: list[str] | None) -> tuple[dict[str, Any], str]:
    """Return the values and where they come from; options that are None were not given."""
    from ofa_kit.training.recipe import with_settings

    values: dict[str, Any] = {}
    source = "command line"
    if recipe:
        path = find_profile("recipes", "recipe", recipe)
        values, source = read_yaml(path), str(path)
    values |= {key: value for key, value in given.items() if value is not None}
    return with_settings(values, settings or []), source
