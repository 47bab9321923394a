# SPDX-License-Identifier: Apache-2.0
"""The web page beside the real node: node, bag player and viewer as processes, over real DDS."""

import http.client
import json
import re
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from browser import CHROMIUM, Browser  # noqa: E402
from rclpy.node import NodeNameNonExistentError  # noqa: E402

from diffmf_ros.tools.view.board import PANELS  # noqa: E402

pytestmark = pytest.mark.alone

NODE, PLAYER = 'diffmf_ros.ros.fusion_node', 'diffmf_ros.ros.bag_player'
FIRST_IMAGE_S = 2.0
IMAGES = {'/fused/image', '/rgb/image_raw', '/thermal/image_raw', '/fused/debug/overlay'}
LONG_S = 3.0
# How many values of a canvas are not black.
PAINTED = """(() => {
    const canvas = document.getElementById('%s'), pen = canvas.getContext('2d');
    return pen.getImageData(0, 0, canvas.width, canvas.height).data
        .filter((value, at) => at %% 4 < 3 && value > 0).length;
})()"""


class Page:
    """What the page does, without a browser: it asks for what it lacks, on one connection."""

    def __init__(self, port: int, panels=PANELS):
        self._connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
        self.numbers = dict.fromkeys(panels, 0)
        self.jpegs, self.report, self.summary, self.moments, self.head = {}, 0, None, [], {}

    def ask(self) -> dict:
        """Take what is new; return the head of the answer."""
        have = '&'.join(
            f'{name}={number}' for name, number in {**self.numbers, 'report': self.report}.items()
        )
        self._connection.request('GET', f'/next?{have}')
        line, _, rest = self._connection.getresponse().read().partition(b'\n')
        self.head = json.loads(line)
        self.report, self.summary = self.head['report'], self.head['summary'] or self.summary
        self.moments += self.head['moments']
        for one in self.head['pictures']:
            self.numbers[one['panel']] = one['number']
            self.jpegs[one['panel']], rest = rest[: one['bytes']], rest[one['bytes'] :]
        return self.head

    def ask_until(self, condition, what: str) -> None:
        """Ask until condition() holds."""
        deadline_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline_s, f'waited for {what}; {self.head}'
            self.ask()


@pytest.fixture
def viewer(start, peer, tmp_path):
    """The process that serves the page, and its port."""
    told = tmp_path / 'view.json'
    child = start('diffmf_ros.cli.main', 'view', '--port', 0, '--json', told)
    peer.wait_for(
        lambda: 'open http' in child.output or child.process.poll() is not None, 'the viewer'
    )
    port = int(re.search(r'open http://127\.0\.0\.1:(\d+)/', child.output)[1])
    peer.wait_for(told.exists, 'the JSON of the viewer')
    assert json.loads(told.read_text()) == {'out': f'http://127.0.0.1:{port}/', 'port': port}
    return child, port


@pytest.fixture
def fusing(start, small_bag, peer):
    """A classical node that fuses a looping bag of 64x48 at 30 Hz: (node, player)."""
    from sensor_msgs.msg import Image

    images = peer.collect(Image, '/fused/image', depth=1)
    node = start(NODE, '--ros-args', '-p', 'model:=classical')
    player = start(PLAYER, small_bag, '--loop', 0)
    peer.wait_for(lambda: images, 'the first fused image')
    return node, player


def received(peer) -> set[str]:
    """The image topics that the viewer is subscribed to."""
    return IMAGES & {
        topic for topic, _ in peer.node.get_subscriber_names_and_types_by_node('viewer', '/')
    }


def discovered(peer) -> bool:
    """Whether the subscriptions of the viewer can be asked for."""
    try:
        received(peer)
    except NodeNameNonExistentError:
        return False
    return True


def resident_kb(pid: int) -> int:
    """Memory of a process."""
    return int(re.search(r'VmRSS:\s*(\d+)', Path(f'/proc/{pid}/status').read_text())[1])


def test_page_shows_live_node(viewer, fusing, peer):
    """The page shows the live node at once and keeps up."""
    child, port = viewer
    page = Page(port)
    # Given that nobody looks: nothing is received
    peer.wait_for(lambda: discovered(peer), 'the viewer')
    assert not received(peer)

    # when it is opened, then it has a fused image within two seconds,
    start_s = time.monotonic()
    page.ask_until(lambda: page.numbers['fused'], 'a fused image')
    assert time.monotonic() - start_s < FIRST_IMAGE_S
    # soon everything,
    peer.wait_for(lambda: received(peer) == IMAGES, 'all subscriptions')
    page.ask_until(
        lambda: page.jpegs.keys() == set(PANELS) and len(page.moments) >= 3,
        'all images and three reports',
    )
    assert all(jpeg.startswith(b'\xff\xd8') for jpeg in page.jpegs.values())
    assert page.head['mode'] == 'CLASSICAL' and page.summary['model'].startswith('classical')
    assert page.summary['rates_hz']['rgb'] == pytest.approx(30, abs=6)
    assert sum(moment['modes'].get('CLASSICAL', 0) for moment in page.moments) > 10
    assert page.summary['latency_ms']['p50'] > 0
    page.ask_until(lambda: page.head['notes'] == {}, 'no note, as all is there')

    # and follows the cameras without falling behind or growing.
    before, memory_kb, start_s = (
        dict(page.numbers),
        resident_kb(child.process.pid),
        time.monotonic(),
    )
    taken = 0
    while time.monotonic() - start_s < LONG_S:
        taken += sum(one['panel'] == 'rgb' for one in page.ask()['pictures'])
    came = page.numbers['rgb'] - before['rgb']
    assert came > 15 * LONG_S and taken >= 0.8 * came
    assert resident_kb(child.process.pid) - memory_kb < 20_000

    # A page that sleeps gets the newest image, and all between are skipped.
    number = page.numbers['rgb']
    time.sleep(1)
    page.ask()
    assert page.numbers['rgb'] - number > 10

    # Given the end of the cameras, then the page says so in words; of the node, that too.
    fusing[1].stop(signal.SIGINT)
    page.ask_until(
        lambda: any('rgb' in about for about, *_ in page.summary['warnings']), 'a warning'
    )
    fusing[0].stop(signal.SIGINT)
    page.ask_until(
        lambda: (
            page.head['silent_s'] > 2
            and 'nobody publishes /fused/image' in page.head['notes'].get('fused', '')
        ),
        'silence',
    )
    # and what no page shows is not received any longer.
    peer.wait_for(lambda: not received(peer), 'no subscription', timeout_s=15)
    assert child.stop(signal.SIGINT) == 0 and 'Traceback' not in child.output


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed')
def test_a_browser_draws_it(viewer, fusing, tmp_path):
    # When a browser opens the page
    with Browser(f'http://127.0.0.1:{viewer[1]}/', profile=tmp_path / 'profile') as page:
        start_s = time.monotonic()
        page.wait_for('Number(document.body.dataset.fused) > 0')
        took_s = time.monotonic() - start_s
        for name in PANELS:
            page.wait_for(f'Number(document.body.dataset["{name}"]) > 5')
        page.wait_for('Number(document.body.dataset.report) >= 3')

        # then the first image is there within two seconds, with mode, rates, plots and pictures
        assert took_s < FIRST_IMAGE_S
        assert page.value('document.getElementById("mode").textContent') == 'CLASSICAL'
        assert re.search(
            r'RGB \d+\.\d', page.value('document.getElementById("rates").textContent')
        )
        assert page.value('document.getElementById("fused").width') == 64
        for canvas in (*PANELS, 'plot_modes', 'plot_latency'):
            assert page.value(PAINTED % canvas) > 100, canvas
        # without a bar to scroll sideways on a phone.
        assert page.value('document.documentElement.scrollWidth <= window.innerWidth')

        # A panel that is hidden is not asked for any longer.
        page.value('document.querySelector("section.panel button").click()')
        page.wait_for('getComputedStyle(document.getElementById("fused")).display === "none"')
        count = page.value('document.body.dataset.fused')
        rgb = int(page.value('document.body.dataset.rgb'))
        page.wait_for(f'Number(document.body.dataset.rgb) > {rgb + 10}')
        assert int(page.value('document.body.dataset.fused')) <= int(count) + 1
        page.picture(tmp_path / 'page.png')
        assert (tmp_path / 'page.png').stat().st_size > 10_000
