# SPDX-License-Identifier: Apache-2.0
"""When a proxy on this host would be carried by the tunnel that it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sevpn.config.profile import Settings
from sevpn.config.store import settings_of_keys
from sevpn.net.nearproxy import loop_warnings

FULL = {"accept_default_gateway": True}


def read(**keys: Any) -> Settings:
    return settings_of_keys({"host": "vpn.example", **keys}, Path("/etc/x.toml"))


@pytest.mark.parametrize("proxy", ["127.0.0.1", "127.0.0.2", "::1", "LocalHost"])
def test_a_full_tunnel_through_a_proxy_on_this_host_is_warned_of(proxy: str) -> None:
    (said,) = loop_warnings(read(**FULL), proxy)

    assert proxy in said
    for advice in ("--exclude ", "--exclude-uid", "sevpn bypass"):
        assert advice in said


def test_halves_of_everything_are_a_full_tunnel() -> None:
    assert loop_warnings(read(include=["0.0.0.0/1", "128.0.0.0/1"]), "127.0.0.1")
    assert not loop_warnings(read(include=["10.0.0.0/8", "a.example"]), "127.0.0.1")


@pytest.mark.parametrize(
    ("keys", "proxy"),
    [
        (FULL, None),
        (FULL, "192.0.2.7"),
        (FULL, "proxy.example"),
        ({}, "127.0.0.1"),
        (FULL | {"exclude": ["192.0.2.0/24"]}, "127.0.0.1"),
        (FULL | {"route_mode": "mark", "exclude_uid": [13]}, "127.0.0.1"),
        (FULL | {"netns": "apart"}, "127.0.0.1"),
    ],
)
def test_where_nothing_goes_round_nothing_is_said(
    keys: dict[str, Any], proxy: str | None
) -> None:
    assert loop_warnings(read(**keys), proxy) == ()
