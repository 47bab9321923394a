# SPDX-License-Identifier: Apache-2.0
"""Who may see the page: this machine, or who has the address with its secret."""

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message

LOOPBACK_NAMES = ('localhost', '127.0.0.1', '::1')


@dataclass(frozen=True)
class Access:
    """What a request has to look like.

    Attributes:
        host: The address or name that the server listens on.
        token: The first part of every path; '' where only this machine can ask.
    """

    host: str
    token: str = field(repr=False)

    @classmethod
    def to(cls, host: str) -> 'Access':
        """Return the access to a server on host: beyond the loopback with a new random token."""
        return cls(host, '' if is_loopback(host) else secrets.token_urlsafe(16))

    def refusal(self, path: str, headers: Mapping[str, str] | Message) -> str:
        """Return why a request is refused, or ''.

        Names of hosts are checked because a foreign page can make its own name lead to this
        machine (DNS rebinding), origins because it can ask without reading the answer.
        """
        host = headers.get('Host', '')
        if not self._knows(_name_of(host)):
            return f'this server is not called {host!r}; use the address that it printed'
        if headers.get('Origin', f'http://{host}') != f'http://{host}':
            return 'requests of other pages are refused'
        if self.token and not secrets.compare_digest(
            path.removeprefix('/').partition('/')[0].encode(), self.token.encode()
        ):
            return 'the address lacks its secret; use the whole address that the server printed'
        if headers.get('Sec-Fetch-Site', 'none') not in ('none', 'same-origin') and (
            headers.get('Sec-Fetch-Mode') != 'navigate'
        ):
            return 'requests of other pages are refused'
        return ''

    def _knows(self, name: str) -> bool:
        if name in (LOOPBACK_NAMES if not self.token else (self.host, *LOOPBACK_NAMES)):
            return True
        # An address needs no name server, and nobody else gives away this machine's names.
        own = socket.gethostname().lower()
        return bool(self.token) and (_is_address(name) or name in (own, f'{own}.local'))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """Return the name in a Host header: without port, brackets and capitals."""
    name, bracket, _ = host.lower().removeprefix('[').partition(']')
    return name if bracket else name.partition(':')[0]
