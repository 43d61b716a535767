"""Owns which network addresses a stranger's URL may lead to: public ones, and nothing inside."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_NEVER = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service, which Python calls global
        "168.63.129.16/32",  # Azure's WireServer: a public number with a machine's secrets behind it
        "64:ff9b::/96",  # NAT64: an IPv4 address inside, which this machine's gateway may lead to
        "64:ff9b:1::/48",
        "2002::/16",  # 6to4, likewise
        "2001::/32",  # Teredo, likewise
        "::/96",  # IPv4-compatible, likewise
        "fec0::/10",  # site-local, the predecessor of fc00::/7
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not private, loopback, link-local (cloud metadata), multicast or reserved."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.scope_id is not None:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if any(found.version == network.version and found in network for network in _NEVER):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)
