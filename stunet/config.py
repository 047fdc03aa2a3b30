"""Recipes: YAML over frozen dataclasses, overridden by `key=value`.

Order of precedence: dataclass defaults < the recipe named by `extends` < the recipe < overrides.
Every value is checked against its field's type; an unknown key is an error that names the nearest
known one. Only this file imports OmegaConf. It does not know any stage's schema: those lie beside
the code that they configure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stunet.errors import ConfigError

T = TypeVar("T")
Recipe = str | Path | None


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe: a path, or a shipped one by name such as `pretrain/phantom`."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = Path(str(resources.files("configs")))
    candidate = shipped / path.with_suffix(".yaml")
    if not path.is_absolute() and candidate.is_file():
        return candidate
    known = sorted(str(p.relative_to(shipped).with_suffix("")) for p in shipped.rglob("*.yaml"))
    raise ConfigError(f"recipe {str(name)!r}: no such file; shipped recipes: {', '.join(known)}")


def read_recipe(name: str | Path) -> dict[str, Any]:
    """Return a recipe's values with those of the recipes it extends merged beneath them."""
    return _read(find_recipe(name), seen=())


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ConfigError(f"recipe {path}: 'extends' goes round in a circle; break the chain")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path}: holds no 'key: value' lines; see configs/ for examples")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    beside = path.parent / str(parent)
    base = _read(beside if beside.is_file() else find_recipe(parent), (*seen, path))
    return dict(OmegaConf.to_container(OmegaConf.merge(base, values)))  # type: ignore[arg-type]


def load_config(schema: type[T], recipe: Recipe, overrides: Sequence[str] = ()) -> T:
    """Return `schema` filled from a recipe and `key=value` overrides.

    Args:
        schema: A frozen dataclass; its fields, their types and defaults are the schema.
        recipe: A recipe file, the name of a shipped one, or None for the defaults alone.
        overrides: Strings such as `optim.lr=1e-3` or `patch_size=[64,64,64]`.

    Raises:
        ConfigError: Unknown key, wrong type, missing value or malformed override.
    """
    place = f"recipe {recipe}" if recipe is not None else "defaults"
    config = OmegaConf.structured(schema)
    try:
        if recipe is not None:
            config = OmegaConf.merge(config, read_recipe(recipe))
        for override in overrides:
            place = f"override {override!r}"
            if "=" not in override:
                raise ConfigError(f"{place}: expected key=value, e.g. optim.lr=1e-3")
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([override]))
        place = f"recipe {recipe}" if recipe is not None else "defaults"
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"{place}: {missing[0]!r} is not set; add {missing[0]}=...")
        return _freeze(OmegaConf.to_object(config))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {_one_line(error)}; see 'stunet config show'") from None


def to_yaml(config: Any) -> str:
    """Return the complete configuration as YAML that `load_config` reads back unchanged."""
    plain: Any = OmegaConf.to_container(OmegaConf.structured(config))
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100)


def differences(left: Any, right: Any) -> list[str]:
    """Return one line `key: left -> right` per value in which two configurations differ."""
    a, b = _flat(OmegaConf.structured(left)), _flat(OmegaConf.structured(right))
    return [
        f"{key}: {a.get(key, 'not set')} -> {b.get(key, 'not set')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _flat(config: DictConfig, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key!s}"
        if isinstance(value, DictConfig):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return flat


def _freeze(value: Any) -> Any:
    """Turn the lists that OmegaConf leaves inside tuples into tuples, at every depth."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _freeze(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return tuple(map(_freeze, value)) if isinstance(value, list | tuple) else value


def _one_line(error: Exception) -> str:
    """Return an error's first sentence with the key it is about, where OmegaConf names one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next(
        (line.removeprefix("full_key: ") for line in lines if line.startswith("full_key:")), ""
    )
    first = lines[0] if lines else type(error).__name__
    return f"{key}: {first}" if key and not first.startswith("Key") else first
