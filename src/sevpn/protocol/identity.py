# SPDX-License-Identifier: Apache-2.0
"""What a login tells the server about this program and this host.

Layer: protocol; pure. Runs in: any thread.

A Login carries the client's name and version, and some 40 elements for the
administrator's session list ("node information"). Only two of those have an
effect: UniqueId, by which a reconnecting client is not counted against the
hub's limit of sessions per user, and ClientIpAddress, where 0 marks an IPv6
session. The rest is sent in neutral form unless the user wants otherwise.

Source: docs/reference/protocol.md#node-information; SoftEtherVPN,
Cedar/Admin.c, OutRpcNodeInfo() and OutRpcWinVer().
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from sevpn.errors import LocalProtocolError
from sevpn.wire.pack import Element, data, integer, ip_elements, text

__all__ = ["MACHINE_ID_SIZE", "UNIQUE_ID_SIZE", "ClientIdentity", "node_information"]

UNIQUE_ID_SIZE: Final = 16
"""Bytes of UniqueId; servers ignore another size."""

MACHINE_ID_SIZE: Final = 20
"""Bytes of the machine's identity; likewise."""

_WINDOWS_ELEMENTS: Final = (
    "V_IsWindows",
    "V_IsNT",
    "V_IsServer",
    "V_IsBeta",
    "V_VerMajor",
    "V_VerMinor",
    "V_Build",
    "V_ServicePack",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdentity:
    """This program, this host and this connection, as the login names them.

    Raises:
        LocalProtocolError: An identity has another size, or the product's name
            would make the server treat us as a bridge.
    """

    unique_id: bytes = field(repr=False)
    """16 bytes, stable per installation and profile: a reconnect does not count twice."""

    machine_id: bytes = field(repr=False)
    """20 bytes, stable per installation; they need not tell anything about it."""

    product: str = "sevpn VPN Client"
    """The client's name. With `client` in it, servers check the build number."""

    version: int = 444
    """Major version times 100 plus minor, in the counting of the official clients."""

    build: int = 9807
    """Build number. Hubs with certain policies refuse clients below 6560."""

    privacy: Literal["minimal", "full"] = "minimal"
    """Whether the host's name, system and the server's address are sent too."""

    client_address: IPv4Address | IPv6Address | None = None
    """Local address of the connection. Sent in either case: 0 would mean IPv6."""

    client_port: int = 0
    """Local TCP port."""

    server_address: IPv4Address | IPv6Address | None = None
    """The server's address, as dialled; full privacy only, as all below."""

    server_port: int = 0
    """The server's TCP port."""

    server_host: str = ""
    """The server's name, as the user wrote it."""

    hostname: str = ""
    """Name of this host."""

    os_name: str = "Linux"
    """Name of the operating system."""

    os_version: str = ""
    """Its version."""

    def __post_init__(self) -> None:
        sizes = (len(self.unique_id), len(self.machine_id))
        if sizes != (UNIQUE_ID_SIZE, MACHINE_ID_SIZE):
            raise LocalProtocolError(
                f"a UniqueId has 16 bytes and a machine's identity 20, not {sizes[0]} and {sizes[1]}"
            )
        if any(word in self.product.lower() for word in ("server", "bridge")):
            raise LocalProtocolError(
                f"a client called {self.product!r} would be treated as a bridge"
            )


def node_information(
    identity: ClientIdentity,
    *,
    server_product: str,
    server_version: int,
    server_build: int,
) -> tuple[Element, ...]:
    """Return the elements of the administrator's session list.

    Args:
        identity: Us. With minimal privacy, of the host only the connection's
            local address is told.
        server_product: What the Hello said.
        server_version: Likewise.
        server_build: Likewise.
    """
    is_full = identity.privacy == "full"
    client = _plain(identity.client_address)
    server = _plain(identity.server_address) if is_full else None
    return (
        _label("ClientProductName", identity.product, 63),
        _label("ServerProductName", server_product, 63),
        _label("ClientOsName", identity.os_name if is_full else "Linux", 63),
        _label("ClientOsVer", identity.os_version if is_full else "", 127),
        text("ClientOsProductId", "--"),
        _label("ClientHostname", identity.hostname if is_full else "", 63),
        _label("ServerHostname", identity.server_host if is_full else "", 63),
        text("ProxyHostname", ""),
        # No HubName: the Login has a hubname already, and no name may occur twice.
        data("UniqueId", identity.unique_id),
        _swapped("ClientProductVer", identity.version),
        _swapped("ClientProductBuild", identity.build),
        _swapped("ServerProductVer", server_version),
        _swapped("ServerProductBuild", server_build),
        _swapped("ClientPort", identity.client_port if is_full else 0),
        _swapped("ServerPort2", identity.server_port if is_full else 0),
        _swapped("ProxyPort", 0),
        *_address_elements("ClientIpAddress", client),
        *_address_elements("ServerIpAddress", server),
        *_address_elements("ProxyIpAddress", None),
        *(integer(name, 0) for name in _WINDOWS_ELEMENTS),
        _label("V_Title", identity.os_name if is_full else "Linux", 127),
    )


def _plain(
    address: IPv4Address | IPv6Address | None,
) -> IPv4Address | IPv6Address | None:
    """Return an IPv4-mapped address as the IPv4 address that it is."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


def _address_elements(
    name: str, address: IPv4Address | IPv6Address | None
) -> tuple[Element, ...]:
    """Return the IPv4 elements, which are 0 for IPv6, and the one for IPv6."""
    if isinstance(address, IPv6Address):
        return (*ip_elements(name, None), data(f"{name}6", address.packed))
    return (*ip_elements(name, address), data(f"{name}6", bytes(16)))


def _label(name: str, value: str, limit: int) -> Element:
    """Return a text that is only ever shown, cut to what the server stores."""
    octets = value.encode("utf-8", "replace").replace(b"\0", b"")[:limit]
    return text(name, octets.decode("utf-8", "ignore"))


def _swapped(name: str, value: int) -> Element:
    """Return a number with its bytes reversed, as the node information has them."""
    return integer(name, int.from_bytes(value.to_bytes(4, "little"), "big"))
