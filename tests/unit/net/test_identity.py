# SPDX-License-Identifier: Apache-2.0
"""What tells this installation from others."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given, strategies as st

from sevpn.net.identity import machine_digest, stable_mac, unique_id

SEED = b"0123456789abcdef0123456789abcdef"


def test_the_unique_id_is_a_keyed_hash_of_the_tunnels_name() -> None:
    expected = hmac.new(SEED, b"sevpn unique-id\0office", hashlib.sha256).digest()[:16]

    assert unique_id("office", seed=SEED) == expected


def test_the_identity_stays_and_differs_by_tunnel_and_machine() -> None:
    identities = {
        (unique_id(name, seed=seed), str(stable_mac(name, seed=seed)))
        for name in ("office", "home")
        for seed in (SEED, b"another machine")
        for _ in range(2)
    }

    assert len(identities) == 4
    assert len(machine_digest(seed=SEED)) == 20
    assert machine_digest(seed=SEED) != machine_digest(seed=b"another machine")


@given(st.text(max_size=63), st.binary(min_size=1, max_size=64))
def test_each_mac_is_local_unicast_and_none_that_hubs_take_for_themselves(
    name: str, seed: bytes
) -> None:
    mac = stable_mac(name, seed=seed)

    assert str(mac).startswith("5e:")
    assert not mac.is_multicast
    assert not mac.is_hub
    assert mac.octets[0] & 2
    assert SEED not in unique_id(name, seed=SEED)
