"""An address to listen on: an IP address and a port. Names are not looked up: that has no time limit."""

import ipaddress
import re
import socket
from typing import Final, NamedTuple

from dynmem.errors import quoted

_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<four>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_PORT_MAX: Final = 65_535


class Address(NamedTuple):
    """An IP address and a port; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this host reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def family(self) -> socket.AddressFamily:
        """Which kind of socket it takes."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


def parse_address(text: str) -> Address:
    """Return the address that a text like "127.0.0.1:9737" means. Raises ValueError with a sentence."""
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"]) if found is not None else 0
    try:
        if found is None:
            host = ""
        elif found["six"] is not None:
            host = str(ipaddress.IPv6Address(found["six"]))
        else:
            host = str(ipaddress.IPv4Address(found["four"]))
    except ValueError:
        host = ""
    if not host or port > _PORT_MAX:
        example = '"127.0.0.1:9737" or "[::1]:9737"'
        raise ValueError(f"{quoted(text)} is not an address and a port: write it like {example}")
    return Address(host, port)
