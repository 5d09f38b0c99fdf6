"""Settings files: YAML into frozen dataclasses, with every unknown key named and a likely one proposed."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from ofa_kit.errors import OfaKitError, RecipeError, UnknownNameError

T = TypeVar("T")


def parse(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    """Return the dataclass `kind` made of `values`; a RecipeError names what is wrong in `source`."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{source}: expected 'key: value' lines, found {values!r}")
    _refuse_unknown_keys(kind, values, source)
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise RecipeError(f"{source}: {place}: {first['msg']}, found {first.get('input')!r}") from error


def plain(value: Any) -> dict[str, object]:
    """Return a dataclass as the plain values that YAML and JSON hold: the other direction of `parse`."""
    return {key: _listed(item) for key, item in asdict(value).items()}


def refuse_below(least: float, settings: object, keys: Iterable[str], source: str) -> None:
    """Raise a RecipeError where one of these settings is smaller or not a number."""
    for key in keys:
        if not getattr(settings, key) >= least:
            raise RecipeError(f"{source}: {key} must be at least {least}, found {getattr(settings, key)}")


def refuse_not_above(least: float, settings: object, keys: Iterable[str], source: str) -> None:
    """Raise a RecipeError where one of these settings is not larger, or not finite."""
    for key in keys:
        if not least < getattr(settings, key) < math.inf:
            raise RecipeError(f"{source}: {key} must be above {least}, found {getattr(settings, key)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; a RecipeError when there is none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"'{path}' must hold 'key: value' lines, found {type(values).__name__}")
    return values


def find_profile(folder: str, kind: str, name: str) -> Path:
    """Return the YAML file that `name` means: a path, or a name in ./profiles/`folder` or among the shipped ones."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if path.exists():
            return path
        shipped = shipped_profiles().parent / path
        if path.parts[:1] == ("profiles",) and shipped.exists():
            return shipped
        raise OfaKitError(f"no {kind} file '{name}'; give a YAML file or one of: {', '.join(profile_names(folder))}")
    for root in (Path("profiles"), shipped_profiles()):
        if (root / folder / f"{name}.yaml").exists():
            return root / folder / f"{name}.yaml"
    raise UnknownNameError(kind, name, profile_names(folder))


def profile_names(folder: str) -> list[str]:
    """Return the names that `find_profile` knows in `folder`."""
    roots = (Path("profiles"), shipped_profiles())
    return sorted({path.stem for root in roots for path in (root / folder).glob("*.yaml")})


def shipped_profiles() -> Path:
    """Return the profiles that came with the package: inside a wheel, else beside a checkout's package."""
    packaged = Path(__file__).parent / "shipped_profiles"
    return packaged if packaged.exists() else Path(__file__).parents[1] / "profiles"


def _listed(item: object) -> object:
    return [_listed(i) for i in item] if isinstance(item, tuple | list) else item


def _refuse_unknown_keys(kind: Any, values: Mapping[str, Any], source: str, place: str = "") -> None:
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in {f.name for f in fields(kind)}:
            raise UnknownNameError(f"key in {source}{place}:", str(key), [f.name for f in fields(kind)])
        inner = [hints[key], *getattr(hints[key], "__args__", ())]
        for candidate in (t for t in inner if is_dataclass(t)):
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, Mapping):
                    _refuse_unknown_keys(candidate, item, source, f" under '{key}'")
