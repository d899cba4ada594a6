"""Proxies that would take what is meant for this machine itself, where NNI's manager listens.

NNI asks its manager for pages by requests, and speaks to its tuner by websockets, both at the name localhost. Both
read the environment as urllib does: a variable in lower case hides the same one in upper case, even where it is empty.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from secateur.errors import ConfigError

LOCALHOST = "localhost"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "socks_proxy", "ws_proxy")
MEND = f"export no_proxy={LOCALHOST},127.0.0.1"
"""The command after which requests to localhost go there, whatever NO_PROXY says."""


def is_proxied(variables: Mapping[str, str]) -> bool:
    """Return whether requests to localhost would go to a proxy, by the variables of the environment.

    Example:
        >>> is_proxied({"HTTP_PROXY": "proxy:80"}), is_proxied({"HTTP_PROXY": "proxy:80", "no_proxy": "localhost"})
        (True, False)
    """
    return _proxy(variables) is not None


def refuse_proxy(variables: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError where requests to localhost would go to a proxy.

    Args:
        variables: of the environment; None: those of this process.

    Example:
        >>> refuse_proxy({"http_proxy": "http://proxy:80", "no_proxy": "localhost,127.0.0.1"})
    """
    proxy = _proxy(os.environ if variables is None else variables)
    if proxy is not None:
        raise ConfigError(
            f"requests to localhost would go to the proxy of {proxy}, and NNI could not speak to its own manager; "
            f"first: {MEND}"
        )


def _proxy(variables: Mapping[str, str]) -> str | None:
    """Return the variable of the proxy that requests to localhost would go to; None where they go there."""
    exceptions = variables.get(_name("no_proxy", variables), "")
    if exceptions == "*" or LOCALHOST in (name.strip().lstrip(".").lower() for name in exceptions.split(",")):
        return None
    names = (_name(name, variables) for name in PROXIES)
    return next((name for name in names if variables.get(name)), None)


def _name(name: str, variables: Mapping[str, str]) -> str:
    return name if name in variables else name.upper()
