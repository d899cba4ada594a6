"""Whose proxies would take what is meant for NNI's manager: those of the libraries that NNI asks it by."""

from __future__ import annotations

import os

import pytest
from requests.utils import get_environ_proxies, select_proxy
from websockets.uri import parse_uri

from secateur.errors import ConfigError
from secateur_nni.proxies import MEND, is_proxied, refuse_proxy

proxy = pytest.importorskip("websockets.proxy", reason="websockets reads the environment from 15 on")
PROXY = "http://proxy.invalid:1"
ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"HTTP_PROXY": ""},
    {"http_proxy": PROXY},
    {"HTTP_PROXY": PROXY},
    {"HTTPS_PROXY": PROXY},
    {"https_proxy": PROXY},
    {"ALL_PROXY": PROXY},
    {"SOCKS_PROXY": PROXY},
    {"WS_PROXY": PROXY},
    {"FTP_PROXY": PROXY},
    {"HTTP_PROXY": PROXY, "http_proxy": ""},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "localhost"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "example.org, LOCALHOST"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": ".localhost"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "127.0.0.1"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "*"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "example.org,*"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "localhost", "no_proxy": "example.org"},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "localhost", "no_proxy": ""},
    {"HTTP_PROXY": PROXY, "NO_PROXY": "example.org", "no_proxy": "localhost"},
]


@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=str)
def test_proxied_is_what_the_libraries_send_to_a_proxy(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    page = "http://localhost:8080/"
    by_requests = select_proxy(page, get_environ_proxies(page)) is not None
    by_websockets = proxy.get_proxy(parse_uri("ws://localhost:8080/tuner")) is not None
    assert is_proxied(variables) is (by_requests or by_websockets)


@pytest.mark.parametrize("exceptions", [{}, {"NO_PROXY": "example.org"}, {"no_proxy": "example.org"}], ids=str)
def test_what_is_said_to_do_helps(exceptions: dict[str, str]) -> None:
    variables = {"HTTPS_PROXY": PROXY, **exceptions}
    with pytest.raises(ConfigError, match=r"would go to the proxy of HTTPS_PROXY, .*; first: export no_proxy="):
        refuse_proxy(variables)
    name, _, value = MEND.removeprefix("export ").partition("=")
    refuse_proxy(variables | {name: value})
