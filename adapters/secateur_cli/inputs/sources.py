"""Things named by an import path: the user's network, and the user's data."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from secateur.checkpoint import load_weights
from secateur.errors import ConfigError, NetworkError, SecateurError
from secateur_cli.failures import described, place
from secateur_cli.settings.config import NetworkConfig, nearest, resolve


def import_path(path: str, *, folder: Path | None = None) -> Callable[..., Any]:
    """Return the callable that `package.module:name` stands for.

    While it is looked up, modules in `folder` (as a rule the configuration file's) and in the working directory can
    be imported, the former first; `sys.path` is put back afterwards. A name may have dots: `module:Class.method`.

    Raises:
        ConfigError: there is no colon, no such module (with the part that is missing), the module fails on import, or
            it has no such name (with the nearest), or what has that name cannot be called.

    Example:
        >>> import_path("collections:OrderedDict")
        <class 'collections.OrderedDict'>
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{path!r} is not an import path; it must read 'package.module:callable'")
    found: Any = _import_module(module_name, path, folder)
    names = attribute.split(".")
    for depth, name in enumerate(names):
        if not hasattr(found, name):
            known = [known for known in dir(found) if not known.startswith("_")]
            where = f"module {module_name!r}" if inspect.ismodule(found) else f"{module_name}:{'.'.join(names[:depth])}"
            hint = nearest(name, known) if known else "it is empty"
            raise ConfigError(
                f"{path!r}: {where} has no {name!r}; {hint if len(hint) < 300 else 'see its documentation'}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"{path!r} is of type {type(found).__name__}; it must be something that can be called")
    function: Callable[..., Any] = found
    return function


def call(path: str, arguments: Mapping[str, Any], *, folder: Path | None = None) -> Any:
    """Call what an import path stands for with keyword arguments.

    Raises:
        ConfigError: as `import_path`, or the callable does not take these arguments (with those that it takes).
    """
    function = import_path(path, folder=folder)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        signature = None  # some builtins do not tell
    if signature is not None:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise ConfigError(f"{path!r} cannot be called so: {error}; its arguments are {signature}") from error
    try:
        with _importable(folder):
            return function(**arguments)
    except SecateurError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
        raise ConfigError(f"{path!r} failed with {given}: {described(error)} ({place(error)})") from error


def build_network(config: NetworkConfig, folder: Path) -> nn.Module:
    """Build the network and load its weights; it comes back as built, in training mode as a rule.

    Raises:
        ConfigError: the import path leads nowhere, or its arguments do not fit.
        NetworkError: what is built is not an `nn.Module`.
        CheckpointError: the weights are missing, foreign or do not fit.
    """
    network = network_factory(config, folder)()
    if config.weights is not None:
        load_weights(network, resolve(config.weights, folder))
    return network


def network_factory(config: NetworkConfig, folder: Path) -> Callable[[], nn.Module]:
    """Return what builds the network without the weights of the configuration: the factory to load checkpoints into.

    The factory raises what `build_network` raises, but for CheckpointError.
    """

    def build() -> nn.Module:
        network = call(config.build, config.arguments, folder=folder)
        if not isinstance(network, nn.Module):
            raise NetworkError(
                f"{config.build!r} returned something of type {type(network).__name__}; it must be a torch.nn.Module"
            )
        return network

    return build


@contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    before = list(sys.path)
    places = [str(Path.cwd())] if folder is None else [str(folder.resolve()), str(Path.cwd())]
    sys.path[:0] = [place for place in places if place not in before]
    try:
        yield
    finally:
        sys.path[:] = before


def _import_module(name: str, path: str, folder: Path | None) -> Any:
    try:
        with _importable(folder):
            importlib.invalidate_caches()
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing != name and not name.startswith(f"{missing}."):
            raise ConfigError(f"{path!r}: importing {name!r} failed: it needs the module {missing!r}") from error
        looked = f" (looked in {folder} and the working directory too)" if folder is not None else ""
        whole = "" if missing == name else f", so {name!r} cannot be imported"
        raise ConfigError(f"{path!r}: no module {missing!r}{whole}{looked}") from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        raise ConfigError(f"{path!r}: importing {name!r} failed: {described(error)} ({place(error)})") from error
