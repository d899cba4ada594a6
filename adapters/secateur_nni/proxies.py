"""Proxies that would take what is meant for this machine itself, where NNI's manager listens."""

from __future__ import annotations

import os
from collections.abc import Mapping

from secateur.errors import ConfigError

LOCALHOST = ("localhost", "127.0.0.1")
PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def is_proxied(variables: Mapping[str, str]) -> bool:
    """Return whether requests to localhost would go to a proxy, by the variables of the environment.

    Example:
        >>> is_proxied({"HTTP_PROXY": "proxy:80"}), is_proxied({"HTTP_PROXY": "proxy:80", "no_proxy": "localhost"})
        (True, False)
    """
    exceptions = f"{variables.get('NO_PROXY', '')},{variables.get('no_proxy', '')}".replace(" ", "").split(",")
    return any(variables.get(name) for name in PROXIES) and not {"*", *LOCALHOST} & set(exceptions)


def refuse_proxy(variables: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError where requests to localhost would go to a proxy.

    Args:
        variables: of the environment; None: those of this process.

    Example:
        >>> refuse_proxy({"http_proxy": "http://proxy:80", "no_proxy": "localhost,127.0.0.1"})
    """
    given = os.environ if variables is None else variables
    if is_proxied(given):
        proxy = next(name for name in PROXIES if given.get(name))
        raise ConfigError(
            f"requests to localhost would go to the proxy of {proxy}, and NNI could not speak to its own manager; "
            "first: export NO_PROXY=localhost,127.0.0.1"
        )
