"""Reading a configuration file: YAML and `--set` in, one checked `RunConfig` out, errors in the author's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, overload

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from secateur.errors import ConfigError
from secateur_cli.settings.schema import DataConfig, NetworkConfig, RunConfig
from secateur_cli.settings.values import with_home

__all__ = ["DataConfig", "NetworkConfig", "RunConfig", "complaints", "load_config", "nearest", "resolve"]

WORDS = {
    "missing": "missing; it must be given",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "dict_type": "must be a mapping of keys and values",
    "tuple_type": "must be a list",
    "too_short": "must hold at least one entry",
    "invalid_key": "a key must be text",
}
BOUNDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}


Kind = TypeVar("Kind", bound=RunConfig)


@overload
def load_config(path: str | Path, *, overrides: Sequence[str] = ()) -> RunConfig: ...
@overload
def load_config(path: str | Path, *, overrides: Sequence[str] = (), kind: type[Kind]) -> Kind: ...
def load_config(path: str | Path, *, overrides: Sequence[str] = (), kind: type[RunConfig] = RunConfig) -> RunConfig:
    """Read a configuration, as a rule a run's, from a YAML file.

    Args:
        path: the file. Without `output`, results go to runs/ and the file's name without its ending.
        overrides: settings such as "plan.budget.macs=40%", each a key's full path and a value in YAML; they replace
            what the file says.
        kind: what the file configures.

    Raises:
        ConfigError: the file is missing or not YAML (with the line), a key is unknown (with the nearest known one),
            missing or has a value that is not allowed (with what is), or keys contradict each other. One line for
            each.
    """
    path = Path(path)
    settings = _read_yaml(path, kind)
    for override in overrides:
        _set(settings, override)
    if "compare" in settings and "compare" not in kind.model_fields:
        raise ConfigError(f"{path} says what to compare (the key compare): give it to `secateur compare`")
    settings.setdefault("output", str(Path("runs") / path.stem))
    try:
        config = kind.model_validate(settings)
    except ValidationError as error:
        lines = complaints(error, kind)
        start = f"{path}: " if len(lines) == 1 else f"{path}:\n  "
        raise ConfigError(start + "\n  ".join(lines)) from None
    return config


def resolve(path: Path, folder: Path) -> Path:
    """Return a path of the configuration: `~` is the home folder, relative paths count from `folder`.

    Raises:
        ConfigError: `~name` of a name that has no home folder here.

    Example:
        >>> resolve(Path("weights/net.safetensors"), Path("/configs")).as_posix()
        '/configs/weights/net.safetensors'
    """
    return folder / with_home(path)


def complaints(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Return what a section refuses in a sentence each, in the words of who wrote it.

    Args:
        error: what pydantic found wrong.
        kind: of the section.

    Example:
        >>> try:
        ...     NetworkConfig.model_validate({"build": "networks:small", "argument": {}})
        ... except ValidationError as error:
        ...     complaints(error, NetworkConfig)
        ["argument: unknown key; did you mean 'arguments'?"]
    """
    return list(dict.fromkeys(_sentence(details, kind) for details in error.errors(include_url=False)))


def nearest(name: str, known: Sequence[str]) -> str:
    """Return what to say after an unknown name: the nearest known one, or all of them.

    Example:
        >>> nearest("bugdet", ["search", "budget"]), nearest("x", ["search", "budget"])
        ("did you mean 'budget'?", 'allowed: search, budget')
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "allowed: " + ", ".join(known)


class _Loader(yaml.SafeLoader):
    """Reads plain data, and refuses a key that is given twice, of which YAML's own loader takes the last.

    Numbers such as 1e-3 are numbers, as in YAML 1.2; YAML's own loader takes them for text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":  # what is merged may be given again
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read_yaml(path: Path, kind: type[RunConfig]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from error
    try:
        settings = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{path}{where}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(settings, dict):
        found = "nothing" if settings is None else type(settings).__name__
        keys = ", ".join(kind.model_fields)
        raise ConfigError(f"{path}: must be a mapping with the keys {keys}; found {found}")
    return settings


def _set(settings: dict[str, Any], override: str) -> None:
    """Put one `a.b=value` into the settings, in place."""
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last or not all(parents):
        raise ConfigError(f"--set {override!r}: must be a key and a value, such as plan.round_to=4")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"--set {override!r}: the value is not YAML: {problem}") from error
    section = settings
    for depth, parent in enumerate(parents):
        if section.get(parent) is None:
            section[parent] = {}
        if not isinstance(section[parent], dict):
            raise ConfigError(f"--set {override!r}: {'.'.join(parents[: depth + 1])} is a value and has no keys")
        section = section[parent]
    section[last] = value


def _sentence(details: ErrorDetails, kind: type[BaseModel]) -> str:
    """Return what pydantic found wrong as 'full.path: value: what is allowed'."""
    found, value, context = details["type"], details["input"], details.get("ctx", {})
    steps = [str(step) for step in details["loc"]]
    section, steps = _section(steps, kind)
    where = ".".join(steps)
    if found == "extra_forbidden":
        return f"{where}: unknown key; {nearest(steps[-1], list(section.model_fields))}"
    if found == "value_error":
        return f"{where}: {context['error']}" if where else str(context["error"])
    if found == "missing":
        return f"{where}: {WORDS[found]}{_meaning(section, steps)}"
    if found in ("model_type", "model_attributes_type"):
        return f"{where}: {value!r}: must be a mapping with the keys " + ", ".join(section.model_fields)
    if found == "literal_error":
        return f"{where}: {value!r} is not allowed; allowed: {str(context['expected']).replace(' or ', ', ')}"
    bound = next((name for name in BOUNDS if name in context), None)
    said = f"must be {BOUNDS[bound]} {context[bound]}" if bound else WORDS.get(found, details["msg"])
    return f"{where}: {value!r}: {said}"


def _section(steps: list[str], kind: type[BaseModel]) -> tuple[type[BaseModel], list[str]]:
    """Return the innermost model that `steps` lead to, and the steps without the names that unions add to them."""
    model = kind
    for depth, step in enumerate(steps):
        field = model.model_fields.get(step)
        if field is None:
            break
        bare = [get_args(t)[0] if get_origin(t) is Annotated else t for t in get_args(field.annotation)]
        inner = [t for t in (field.annotation, *bare) if _is_model(t)]
        if not inner:
            return model, steps[: depth + 1] + [s for s in steps[depth + 1 :] if s.isdigit()]
        model = inner[0]
    return model, steps


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _meaning(section: type[BaseModel], steps: list[str]) -> str:
    field = section.model_fields.get(steps[-1])
    return f": {field.description}" if field is not None and field.description else ""
