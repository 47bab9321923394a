# SPDX-License-Identifier: Apache-2.0
"""The server of the web page: who is let in, and that slow pages get what is newest. No ROS."""

import http.client
import json
import os
import threading
import time
from contextlib import contextmanager

import pytest
from bad_inputs import ran

from diffmf_ros.core.frames import FrameError
from diffmf_ros.tools.view.board import Board, Status, Summary, summarize
from diffmf_ros.tools.view.server import MAX_CONNECTIONS, Access, Server, ServerError, is_loopback

PICTURE = b'\xff\xd8 a picture \n of two lines \xff\xd9'


@contextmanager
def serving(board=None, *, host='127.0.0.1'):
    """Yield a running server with a free port."""
    with Server(board or Board(), host=host, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path='/', *, method='GET', **headers):
    """Return status and content of one request; headers with _ for -."""
    connection = http.client.HTTPConnection('127.0.0.1', server.server_port, timeout=10)
    connection.request(
        method, path, headers={name.replace('_', '-'): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def opened(content):
    """Return the line of JSON and the bytes behind it."""
    line, _, rest = content.partition(b'\n')
    return json.loads(line), rest


def test_policy_allows_own_script_alone():
    """The page comes with a policy that allows its own script alone."""
    with serving() as server:
        answer, content = ask(server)

    assert answer.status == 200 and b'<title>diffmf view</title>' in content
    policy = answer.headers['Content-Security-Policy']
    assert (
        "default-src 'none'" in policy
        and "script-src 'sha256-" in policy
        and 'unsafe-eval' not in policy
    )
    assert answer.headers['X-Content-Type-Options'] == 'nosniff'
    assert (
        b'http://' not in content and b'https://' not in content
    )  # it loads nothing from elsewhere


@pytest.mark.parametrize(
    'headers, said',
    [
        ({'Host': 'evil.example'}, 'not called'),
        ({'Host': 'evil.example:8080'}, 'not called'),
        ({'Host': '192.168.1.7'}, 'not called'),
        ({'Host': ''}, 'not called'),
        ({'Origin': 'http://evil.example'}, 'other pages'),
        ({'Origin': 'null'}, 'other pages'),
        ({'Sec_Fetch_Site': 'cross-site', 'Sec_Fetch_Mode': 'no-cors'}, 'other pages'),
        ({'Sec_Fetch_Site': 'same-site', 'Sec_Fetch_Mode': 'cors'}, 'other pages'),
    ],
)
@pytest.mark.parametrize('path', ['/', '/next?fused=0'])
def test_foreign_requests_are_refused(headers, said, path):
    """Requests of other pages and under other names are refused."""
    board = Board()
    board.put('fused', lambda: PICTURE)
    with serving(board) as server:
        answer, content = ask(server, path, **headers)

    assert answer.status == 403 and said in content.decode() and b'picture' not in content


@pytest.mark.parametrize('host', ['localhost', 'LOCALHOST:8080', '127.0.0.1:1', '[::1]:8080'])
def test_machine_names_are_let_in(host):
    """The names of this machine are let in."""
    with serving() as server:
        answer, _ = ask(server, Host=host, Origin=f'http://{host}')

    assert answer.status == 200


def test_remote_access_needs_secret():
    """Beyond this machine the secret of the address is needed."""
    board = Board()
    board.put('fused', lambda: PICTURE)
    with serving(board, host='0.0.0.0') as server:
        token = server.access.token
        refused = [
            ask(server, path)[0].status
            for path in (
                '/',
                '/next?fused=0',
                '//',
                f'/{token[:-1]}/',
                f'/x/{token}/',
                f'/{token[:-1]}/next?fused=0',
                '/%00/',
                'x',
                '//[',
            )
        ]
        named, _ = ask(server, f'/{token}/', Host='evil.example')
        page, _ = ask(server, f'/{token}/', Host='192.168.1.7:8080')
        news, content = ask(server, f'/{token}/next?fused=0')

        assert len(token) >= 20 and server.url.endswith(f':{server.server_port}/{token}/')
    assert refused == [403] * 9 and named.status == 403
    assert (page.status, news.status) == (200, 200) and opened(content)[1] == PICTURE


def test_every_start_has_another_secret():
    assert len({Access.to('0.0.0.0').token for _ in range(50)}) == 50
    assert (
        Access.to('127.0.0.1').token
        == Access.to('localhost').token
        == Access.to('::1').token
        == ''
    )
    assert Access('0.0.0.0', 'secret') and 'secret' not in repr(Access('0.0.0.0', 'secret'))
    assert not is_loopback('192.168.0.1') and not is_loopback('robot')


@pytest.mark.parametrize(
    'method, path, status',
    [
        ('POST', '/', 501),
        ('PUT', '/next', 501),
        ('OPTIONS', '/', 501),
        ('GET', '/etc/passwd', 404),
        ('GET', '/../board.py', 404),
        ('GET', '/page.html', 404),
        ('GET', '/next/', 404),
        ('GET', '/next?door=1', 400),
        ('GET', '/next?fused=x', 400),
        ('GET', '/next?fused', 400),
    ],
)
def test_anything_else_is_refused(method, path, status):
    with serving() as server:
        answer, content = ask(server, path, method=method)

    assert answer.status == status and b'Traceback' not in content


def test_excess_connections_are_closed():
    """More connections than a few pages need are closed."""
    with serving() as server:
        # Given as many as are served, each with an answer
        held = [
            http.client.HTTPConnection('127.0.0.1', server.server_port)
            for _ in range(MAX_CONNECTIONS)
        ]
        for connection in held:
            connection.request('GET', '/none')
            connection.getresponse().read()

        # when another one comes, then it is closed without an answer
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(server)

        # and when one of them goes, the next is served.
        held.pop().close()
        deadline_s = time.monotonic() + 10
        while True:
            try:
                assert ask(server)[0].status == 200
                break
            except (http.client.HTTPException, OSError):
                assert time.monotonic() < deadline_s
        for connection in held:
            connection.close()


@pytest.mark.parametrize('arguments, said', [
    (('--namespace', 'a b'), "expected a namespace, such as / or /front, got '/a b': "),
    (('--rgb-image', ''), "expected the name of a topic, such as /rgb/image_raw, got '': "),
    (('--thermal-image', '/a/'), "expected the name of a topic, such as /rgb/image_raw, got '/a/'")
])
def test_impossible_names_are_refused(arguments, said):
    """Names that rcl would refuse in words of its parser are one line."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')

    outcome = ran(['view', '--port', '0', *arguments])

    assert outcome.code == 2 and said in outcome.said


@pytest.mark.parametrize('given, name', [('front', '/front'), ('/front/', '/front')])
def test_namespace_needs_no_slash(monkeypatch, given, name):
    """A namespace is taken with and without its slashes."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    started = []
    monkeypatch.setattr(os, 'execv', lambda path, words: started.append(words))

    ran(['view', '--port', '0', '--namespace', given])

    assert f'__ns:={name}' in started[0]


def test_taken_port_is_explained():
    """A port that is taken is an error that says what to do."""
    with serving() as server:
        with pytest.raises(ServerError, match='is taken by another program: .* --port'):
            Server(Board(), host='127.0.0.1', port=server.server_port)
        # And the command says so in one line, before ROS is started
        pytest.importorskip('rclpy', reason='rclpy is not installed')
        outcome = ran(['view', '--port', str(server.server_port)])
        assert outcome.code == 2 and outcome.said.count('\n') == 1
        assert outcome.said.startswith(f'error: port {server.server_port} of 127.0.0.1 is taken')
    with pytest.raises(ServerError, match='--host'):
        Server(Board(), host='203.0.113.9', port=0)


def test_slow_page_gets_newest_pictures():
    """A slow page gets the newest pictures and the others are never encoded."""
    # Given a hundred images before the page asks again
    board, made = Board(), []
    with serving(board) as server:
        for number in range(1, 101):
            board.put('fused', lambda number=number: made.append(number) or PICTURE)
            board.put('rgb', lambda number=number: made.append(-number) or PICTURE)

        # when two pages ask, one for two panels and one for one of them
        head, pictures = opened(ask(server, '/next?fused=3&rgb=0')[1])
        again, _ = opened(ask(server, '/next?fused=0')[1])

    # then they get the newest of each, and each was made once.
    assert [(one['panel'], one['number']) for one in head['pictures']] == [
        ('fused', 100),
        ('rgb', 100),
    ]
    assert pictures == PICTURE * 2 and head['pictures'][0]['bytes'] == len(PICTURE)
    assert again['pictures'][0]['number'] == 100 and sorted(made) == [-100, 100]


def test_up_to_date_page_waits():
    """A page with everything waits for the next image."""
    board = Board()
    board.put('fused', lambda: PICTURE)
    threading.Timer(0.2, board.put, ('fused', lambda: b'next')).start()

    start_s = time.monotonic()
    answer = board.wait({'fused': 1}, report=0, timeout_s=5)

    assert answer.pictures['fused'].number == 2 and answer.pictures['fused'].jpeg() == b'next'
    assert 0.15 < time.monotonic() - start_s < 4


def test_only_requested_is_wanted():
    """Only what a page has asked for is wanted."""
    board = Board()
    assert board.wanted() == set()
    board.wait({'fused': 0, 'overlay': 0}, report=0, timeout_s=0)

    assert board.wanted() == {'fused', 'overlay'}


def test_unreadable_image_is_reported():
    """An image that cannot be read is reported."""
    def refuse():
        raise FrameError('of an unknown kind', reason='unknown_encoding')

    board = Board()
    board.put('thermal', refuse)
    board.note('rgb', 'nobody publishes /rgb/image_raw')
    with serving(board) as server:
        head, rest = opened(ask(server, '/next?thermal=0&rgb=0')[1])

    assert rest == b'' and head['notes'] == {
        'thermal': 'of an unknown kind',
        'rgb': 'nobody publishes /rgb/image_raw',
    }


def report(*, fused=0, alone=0, level=0, name='fusion_node', **values):
    """The statuses of a report after so many images."""
    values = {
        'out.FUSED': str(fused),
        'out.RGB_ONLY': str(alone),
        'rate_out_hz': '29.97',
        'rate_rgb_hz': 'N/A',
        'latency_p50_ms': '12.5',
        'latency_p99_ms': 'N/A',
        'dropped.unpaired': '7',
        **values,
    }
    return [
        Status(f'{name}: fusion', level, 'thermal is late', values),
        *(Status(f'{name}: {camera}', 0, 'fine', {}) for camera in ('rgb', 'thermal')),
    ]


def test_a_report_is_summarized():
    summary = summarize(report(fused=30, level=1, model='diffmf'), namespace='/')

    assert (summary.node, summary.model) == ('fusion_node', 'diffmf')
    assert summary.rates_hz == {'rgb': None, 'thermal': None, 'fused': 29.97}
    assert summary.latency_ms == {'p50': 12.5, 'p99': None} and summary.drops == {'unpaired': 7}
    assert summary.warnings == (('fusion', 'warning', 'thermal is late'),)


@pytest.mark.parametrize(
    'name, namespace, found',
    [
        ('fusion_node', '/', True),
        ('front/fusion_node', '/front', True),
        ('a/b/fusion_node', '/a/b', True),
        ('front/fusion_node', '/', False),
        ('fusion_node', '/front', False),
        ('rear/fusion_node', '/front', False),
    ],
)
def test_namespace_node_is_shown(name, namespace, found):
    """The node of the namespace is shown."""
    assert bool(summarize(report(name=name), namespace=namespace)) is found
    assert summarize([Status('camera: driver', 0, '', {})], namespace='/') is None


def test_plots_survive_restarted_counters():
    """Plots get what happened between reports and a restart is no negative count."""
    board = Board()
    for counts in ({'fused': 30}, {'fused': 58, 'alone': 2}, {'fused': 5}, {'fused': 35}):
        board.report(summarize(report(**counts), namespace='/'))

    everything = board.wait({}, report=0, timeout_s=0)
    newest = board.wait({}, report=3, timeout_s=0)

    assert [moment.modes for moment in everything.moments] == [
        {},
        {'FUSED': 28, 'RGB_ONLY': 2},
        {},
        {'FUSED': 30, 'RGB_ONLY': 0},
    ]
    assert isinstance(newest.summary, Summary) and len(newest.moments) == 1 and newest.number == 4
    assert board.wait({}, report=4, timeout_s=0).summary is None
    assert len(board.wait({}, report=9, timeout_s=0).moments) == 4  # a page of another server


def test_board_keeps_five_minutes():
    """The board keeps five minutes and one picture a panel."""
    board = Board()
    for number in range(400):
        board.report(summarize(report(fused=number), namespace='/'))
        board.put('fused', lambda: PICTURE)

    answer = board.wait({'fused': 0}, report=0, timeout_s=0)

    assert len(answer.moments) == 300 and len(answer.pictures) == 1
