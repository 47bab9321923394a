# SPDX-License-Identifier: Apache-2.0
"""The HTTP server of the page, and who may see it: this machine, or who has the address with its
secret.

A page asks for what it lacks and asks again when it has drawn that. So a slow page gets fewer and
always the newest pictures, and nothing has to be kept for it.
"""

import base64
import errno
import hashlib
import ipaddress
import json
import re
import secrets
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import parse_qsl

from ...core.frames import DiffmfError, FrameError
from .board import PANELS, Answer, Board

# A browser opens a connection for each page, and a few more to be quick.
MAX_CONNECTIONS = 32
# An answer comes within this time, with or without news. Less than board.IDLE_S.
PATIENCE_S = 2.0
# A page that does not take its answer, or says nothing, loses its connection.
STALLED_S = 20.0
# Bounds what the system keeps of a picture on its way to a slow page.
SEND_BUFFER = 256 * 1024
RESULT = ('out', 'port')  # keys of --json: the address of the page
LOOPBACK_NAMES = ('localhost', '127.0.0.1', '::1')


class ServerError(DiffmfError):
    """The server cannot listen where it should."""


def require_port(host: str, port: int) -> None:
    """Raise ServerError, before ROS is started, unless a server can listen there."""
    Server(Board(), host=host, port=port).server_close()


class Server(ThreadingHTTPServer):
    """Serves the page and what board has, to who passes access."""

    daemon_threads = True

    def __init__(self, board: Board, *, host: str, port: int):
        """Listen; port 0 takes any that is free.

        Raises:
            ServerError: The address is none of this machine's, or the port is taken.
        """
        self.board, self.access, self.page = board, Access.to(host), ViewPage()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            self.address_family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )[0]
            super().__init__((str(address[0]), int(address[1])), Handler)
        except (OSError, OverflowError) as error:
            if getattr(error, 'errno', None) == errno.EADDRINUSE:
                raise ServerError(
                    f'port {port} of {host} is taken by another program: choose another one with '
                    '--port (0: any free port)'
                ) from error
            said = getattr(error, 'strerror', None) or str(error)
            raise ServerError(
                f'cannot listen on {host}, port {port}: {said}; choose others with --host '
                'and --port (0: any free port)'
            ) from error

    @property
    def url(self) -> str:
        """The address to open."""
        host = _reachable(self.access.host)
        token = f'{self.access.token}/' if self.access.token else ''
        return f'http://{f"[{host}]" if ":" in host else host}:{self.server_port}/{token}'

    def server_bind(self) -> None:
        """Bind without looking up the name of the machine, which can take seconds in the field."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)

    def process_request(self, request, client_address) -> None:
        """Serve a connection in a thread of its own, or close it when there are too many."""
        if self._free.acquire(blocking=False):
            request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address) -> None:
        """Serve a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address) -> None:
        """Let connections end without a word when the page goes away; raise what is a bug."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class ViewPage:
    """The file of the page, and the header that lets a browser run its script alone."""

    def __init__(self):
        text = files(__package__).joinpath('page.html').read_text(encoding='utf-8')
        script = re.search('<script>(.*)</script>', text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        self.content = text.encode()
        self.policy = (
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
            "connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"
        )


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection: the page itself, and `next`."""

    server: 'Server'

    protocol_version = 'HTTP/1.1'
    server_version, sys_version = 'diffmf', ''
    timeout = STALLED_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:  # noqa: N802, the name is http.server's
        """Serve the page or what is newest."""
        path, _, query = self.path.partition('?')
        access = self.server.access
        if refusal := access.refusal(path, self.headers):
            self._send_text(HTTPStatus.FORBIDDEN, refusal)
            return
        prefix = f'/{access.token}' if access.token else ''
        what = path.removeprefix(prefix)
        if what == '/':
            self._send(
                HTTPStatus.OK,
                self.server.page.content,
                'text/html; charset=utf-8',
                {'Content-Security-Policy': self.server.page.policy},
            )
        elif what == '/next':
            self._send_next(query)
        else:
            self._send_text(HTTPStatus.NOT_FOUND, 'there is nothing here')

    def log_message(self, *_) -> None:
        """Say nothing: there are thirty requests a second."""

    def _send_next(self, query: str) -> None:
        try:
            have = {name: int(number) for name, number in parse_qsl(query, strict_parsing=True)}
        except ValueError:
            have = {'?': 0}
        report = have.pop('report', 0)
        if unknown := have.keys() - set(PANELS):
            self._send_text(
                HTTPStatus.BAD_REQUEST,
                f'expected numbers of report, {", ".join(PANELS)}; '
                f'got {", ".join(sorted(unknown))}',
            )
            return
        answer = self.server.board.wait(have, report=report, timeout_s=PATIENCE_S)
        self._send(HTTPStatus.OK, bundle(answer), 'application/octet-stream')

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, f'{text}\n'.encode(), 'text/plain; charset=utf-8')

    def _send(
        self, status: HTTPStatus, content: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            'Content-Type': kind,
            'Content-Length': str(len(content)),
            'Cache-Control': 'no-store',
            'X-Content-Type-Options': 'nosniff',
            'Referrer-Policy': 'no-referrer',
            'Cross-Origin-Resource-Policy': 'same-origin',
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def bundle(answer: Answer) -> bytes:
    """Return an answer as one line of JSON and, behind it, the JPEGs of its pictures."""
    jpegs, pictures = [], []
    notes = dict(answer.notes)
    for panel, picture in answer.pictures.items():
        try:
            jpegs.append(picture.jpeg())
        except FrameError as error:
            jpegs.append(b'')
            notes[panel] = str(error)
        pictures.append({'panel': panel, 'number': picture.number, 'bytes': len(jpegs[-1])})
    head = {
        'pictures': pictures,
        'notes': notes,
        'report': answer.number,
        'summary': asdict(answer.summary) if answer.summary else None,
        'moments': [asdict(moment) for moment in answer.moments],
        'mode': answer.mode[0],
        'said': answer.mode[1],
        'silent_s': round(answer.silent_s, 1),
    }
    return b'\n'.join((json.dumps(head).encode(), b''.join(jpegs)))


def _reachable(host: str) -> str:
    """Return host, or the address by which others reach this machine where host is all."""
    if host not in ('0.0.0.0', '::'):  # noqa: S104 (asked for)
        return host
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(('2001:db8::1' if ':' in host else '192.0.2.1', 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()


@dataclass(frozen=True)
class Access:
    """Host and token that a request has to name.

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
