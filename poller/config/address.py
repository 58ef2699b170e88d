"""The address on which the server listens: `HOST:PORT`, and whether other machines can reach it. Pure."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A host and a port. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach it."""
        return is_loopback_host(self.host)

    def at(self, port: int) -> "Address":
        """Return the same host with the port that was taken."""
        return Address(host=self.host, port=port)

    def near(self) -> "Address":
        """Return where this machine reaches it: loopback for an address that means all interfaces."""
        return Address(host={"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), port=self.port)  # noqa: S104 - compared, not bound


def is_loopback_host(host: str) -> bool:
    """Return whether a name or address is certainly this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def address_of(text: str) -> Address | None:
    """Return the address that `text` names; None for "off". Raises `ValueError` for what is neither."""
    if text == OFF:
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError('must be HOST:PORT, such as "127.0.0.1:8321" or "[::1]:8321", or "off"')
    host = match[1] or match[2]
    if match[1]:
        ip_address(host)
    return Address(host=host, port=int(match[3]))


def listen_address(text: str) -> str:
    address_of(text)
    return text
