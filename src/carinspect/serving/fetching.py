"""Fetches a photo from a stranger's URL without being led anywhere else.

The host is resolved once and the connection goes to the address that was checked, so that a name cannot point elsewhere a moment later
(DNS rebinding). Every redirect goes through the same checks. Source of the rules: OWASP, Server-Side Request Forgery Prevention.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Thread
from urllib.parse import urljoin, urlsplit

import httpx

from carinspect.serving.config import ServiceConfig
from carinspect.serving.refusals import RefusalError, busy
from carinspect.serving.uploads import Reservation, too_large

MAX_REDIRECTS = 3
_NAMES_AT_ONCE, _ALL_NAMES_AT_ONCE = 4, 256
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
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

Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, as the system resolves them. Raises `OSError` when it has none."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str], error: OSError | None) -> None:
        if not found.done():
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

    def ask() -> None:
        addresses, error = [], None
        try:
            addresses = [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as raised:
            error = raised if isinstance(raised, OSError) else OSError(str(raised))
        # Nobody waits any more once the loop has ended.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, addresses, error)

    # A thread of its own, which nobody waits for: the system's resolver cannot be stopped, and in a shared pool a few slow names would
    # keep all others waiting. `Fetcher` bounds how many there are.
    Thread(target=ask, name="resolve", daemon=True).start()
    return await found


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


def _join(url: str, following: str) -> str:
    try:
        return urljoin(url, following)
    except ValueError:
        raise RefusalError(422, "That URL redirects to what is not a URL.") from None


class Fetcher:
    """Fetches photos from the hosts that `config` allows. Tests replace what follows it, to reach servers of their own."""

    def __init__(
        self,
        config: ServiceConfig,
        *,
        resolver: Resolve = resolve,
        allows: Callable[[str], bool] = is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._config, self._resolver, self._allows = config, resolver, allows
        self._resolving: Counter[str] = Counter()
        self._trust = trust or httpx.create_ssl_context(trust_env=False)

    async def fetch(self, url: str, reservation: Reservation) -> bytes:
        """The bytes at `url`, one photo's worth at most. Raises `RefusalError`; its reason never tells what lies inside the network."""
        if not self._config.allow_urls:
            raise RefusalError(
                403, "Fetching photos by URL is switched off here (CARINSPECT_ALLOW_URLS). Upload the photo to /predict/file."
            )
        try:
            async with asyncio.timeout(self._config.url_timeout_s):
                for _ in range(MAX_REDIRECTS + 1):
                    content, following = await self._get(url, reservation)
                    if following is None:
                        return content
                    url = _join(url, following)
        except TimeoutError:
            raise RefusalError(422, f"The photo did not come within {self._config.url_timeout_s:g} s.") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
            # ValueError: httpx reads where an answer redirects to, though it is not to follow, and raises idna's errors on broken names.
            raise RefusalError(422, "The photo could not be fetched from that URL.") from None
        raise RefusalError(422, f"The URL redirects more than {MAX_REDIRECTS} times.")

    async def _get(self, url: str, reservation: Reservation) -> tuple[bytes, str | None]:
        """One request: the content, or where it redirects to."""
        scheme, host, port, path = self._checked_parts(url)
        address = await self._checked_address(host, port)
        literal = f"[{address}]" if ":" in address else address
        named = f"[{host}]" if ":" in host else host
        headers = {
            "Host": named if port == _PORTS[scheme] else f"{named}:{port}",
            "Accept": "image/*",
            # Compressed content could unfold without bound.
            "Accept-Encoding": "identity",
            "User-Agent": "carinspect",
        }
        # A client of its own for each request: no cookie, credential or proxy setting comes along.
        async with httpx.AsyncClient(trust_env=False, verify=self._trust, timeout=self._config.url_timeout_s) as client:
            request = client.build_request("GET", f"{scheme}://{literal}:{port}{path}", headers=headers, extensions={"sni_hostname": host})
            response = await client.send(request, stream=True)
            try:
                return await self._read(response, reservation)
            finally:
                await response.aclose()

    async def _read(self, response: httpx.Response, reservation: Reservation) -> tuple[bytes, str | None]:
        if response.status_code in _REDIRECTS and "location" in response.headers:
            return b"", response.headers["location"]
        if response.status_code != 200:
            raise RefusalError(422, f"That URL answers with the status {response.status_code}.")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RefusalError(422, "That URL answers in a compressed form that was not asked for.")
        content = bytearray()
        async for chunk in response.aiter_raw():
            if len(content) + len(chunk) > self._config.max_upload_bytes:
                raise too_large(self._config)
            reservation.take(len(chunk))
            content += chunk
        return bytes(content), None

    def _checked_parts(self, url: str) -> tuple[str, str, int, str]:
        """Scheme, host, port, and path with query."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip(".").encode("idna").decode(), parts.port
            host.encode("ascii").decode("idna")  # as httpx will; it raises kinds of errors of its own
        except (ValueError, UnicodeError):
            raise RefusalError(422, "That is not a URL.") from None
        if parts.scheme not in _PORTS or not host:
            raise RefusalError(422, "The URL must begin with https:// or http:// and name a host.")
        if parts.username is not None or parts.password is not None:
            raise RefusalError(422, "The URL holds a user name or a password. Credentials are not passed on.")
        port = port or _PORTS[parts.scheme]
        self._check_host(host, port, usual=port == _PORTS[parts.scheme])
        return parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _check_host(self, host: str, port: int, *, usual: bool) -> None:
        allowed = self._config.url_hosts
        names = (host, f".{host}") if usual else (f"{host}:{port}", f".{host}:{port}")
        if any(names[0] == entry or (entry.startswith(".") and names[1].endswith(entry)) for entry in allowed):
            return
        if allowed:
            raise RefusalError(403, "The URL's host is not one of those that photos are fetched from here (CARINSPECT_ALLOWED_URL_HOSTS).")
        if not usual:
            raise RefusalError(403, "The URL names a port other than 80 for http or 443 for https.")

    async def _checked_address(self, host: str, port: int) -> str:
        addresses = await self._resolve(host, port)
        # One address inside is enough: which of them a connection takes is not the sender's to choose.
        if not addresses or not all(self._allows(address) for address in addresses):
            raise RefusalError(403, "The URL's host is not on the public internet.")
        return addresses[0]

    async def _resolve(self, host: str, port: int) -> list[str]:
        """The host's addresses. A name that does not answer holds its own places, and none of other names."""
        # By the domain that its owner pays for, as far as the name's shape tells: labels below it cost nothing.
        owner = ".".join(host.split(".")[-2:])
        if self._resolving[owner] >= _NAMES_AT_ONCE or self._resolving.total() >= _ALL_NAMES_AT_ONCE:
            raise busy("Too many names are being looked up")
        self._resolving[owner] += 1
        lookup = asyncio.ensure_future(self._resolver(host, port))
        lookup.add_done_callback(lambda done: self._end_lookup(owner, done))
        # Shielded: a thread that the system's resolver holds keeps its place when nobody waits for it any more.
        return await asyncio.shield(lookup)

    def _end_lookup(self, owner: str, lookup: asyncio.Future[list[str]]) -> None:
        self._resolving -= Counter([owner])
        if not lookup.cancelled():
            lookup.exception()  # whoever waited has it, or nobody wants it
