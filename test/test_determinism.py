# SPDX-License-Identifier: Apache-2.0
"""The same recording gives the same bytes.

Twice, in another order of arrival, on other threads, by every way in.
"""

import numpy as np
import pytest

from diffmf_ros import Fuser
from diffmf_ros.cli.main import run
from diffmf_ros.core.frames import RGB
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.io.bag_messages import image_message, stamp_of
from diffmf_ros.io.bags import IMAGE, START_NS, BagReader, BagWriter
from diffmf_ros.io.images import read_frame, write_image
from diffmf_ros.tools.replay import fuse_bag, pairs_of
from diffmf_ros.tools.replay_outputs import FUSED_TOPIC, BagOutput

pytestmark = pytest.mark.slow

PERIOD_NS = 1_000_000_000 // 30
NETWORKS = ('diffmf', 'refinefuse', 's4fusion')


def settings_of(model, **changes):
    """Return settings for a CPU. float32: that of `auto` depends on the processor."""
    preset = {'preset': 'nano'} if model == 'diffmf' else {
        'preset': 'light'} if model in NETWORKS else {}
    return with_changes(DEFAULTS, {'model': model, 'device': 'cpu', 'precision': 'float32',
                                   **preset, **changes})


def scene(index, *, bits=16):
    """Return an RGB image, 48 x 64 x 3 uint8, and a thermal one, 24 x 32, of a warm spot that
    moves."""
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[:24, :32]
    heat = 40 + 2 * columns + 90 * np.exp(-((columns - 4 - index) ** 2 + (rows - 12) ** 2) / 18)
    heat = heat + rng.normal(0, 1, heat.shape)
    rgb = np.repeat(np.repeat(80 + 3 * rows, 2, 0), 2, 1)[...,
                                                          None] + rng.integers(0, 40, (48, 64, 3))
    thermal = heat.clip(0, 255).astype(np.uint8) if bits == 8 else (7000 + 10 * heat).astype(
        np.uint16)
    return rgb.clip(0, 255).astype(np.uint8), thermal


def write_bag(path, *, count, bits=16, thermal_later_ns=lambda index: 7_000_000):
    """Write `count` pairs of 30 Hz.

    thermal_later_ns: how much later than its stamp thermal reaches the recorder.
    """
    rows = []
    for index in range(count):
        rgb, thermal = scene(index, bits=bits)
        stamp_ns = START_NS + index * PERIOD_NS
        rows.append((stamp_ns, '/rgb/image_raw',
                     image_message(rgb, 'rgb8', stamp_ns=stamp_ns, frame_id='rgb')))
        message = image_message(thermal, f'mono{bits}', stamp_ns=stamp_ns + 3_000_000,
                                frame_id='thermal')
        rows.append((stamp_ns + 3_000_000 + thermal_later_ns(index), '/thermal/image_raw',
                     message))
    with BagWriter(path) as writer:
        for recorded_ns, topic, message in sorted(rows, key=lambda row: row[0]):
            writer.write(topic, IMAGE, message, recorded_ns)
    return path


def replayed(bag, out, settings):
    """Return {stamp in ns: bytes of the fused image}, and the hash that the command reports."""
    with BagReader(bag) as reader, BagOutput(BagWriter(out)) as writer:
        counts = fuse_bag(reader, writer, FusionPipeline(settings), settings.sync)
    return images_of(out), counts.sha256


def content(bag):
    with BagReader(bag) as reader:
        return [(message.topic, message.stamp_ns, message.raw) for message in reader.messages()]


def images_of(bag):
    with BagReader(bag) as reader:
        messages = [reader.deserialize(m.raw, m.msgtype) for m in reader.messages([FUSED_TOPIC])]
    return {stamp_of(message): bytes(message.data) for message in messages}


@pytest.mark.parametrize('model', ['classical', *NETWORKS])
def test_two_runs_give_the_same_bag(model, tmp_path):
    if model in NETWORKS:
        pytest.importorskip('torch', reason='torch is not installed')
    bag = write_bag(tmp_path / 'bag', count=4)

    first, hash_of_first = replayed(bag, tmp_path / 'a', settings_of(model))
    second, hash_of_second = replayed(bag, tmp_path / 'b', settings_of(model))

    assert len(first) == 4 and len(set(first.values())) == 4
    assert (first, hash_of_first) == (second, hash_of_second)
    assert content(tmp_path / 'a') == content(tmp_path / 'b')


@pytest.mark.parametrize('seed', range(4))
def test_arrival_order_same_images(seed, tmp_path):
    """Other orders of arrival give the same images."""
    # Given a recording, and one in which thermal reached the recorder up to 150 ms later, in its
    # own order
    rng = np.random.default_rng(seed)
    delays_ns = np.maximum.accumulate(rng.integers(0, 150_000_000, 20) + np.arange(20) * PERIOD_NS)
    usual = write_bag(tmp_path / 'usual', count=20)
    other = write_bag(tmp_path / 'other', count=20,
                      thermal_later_ns=lambda index: int(delays_ns[index]) - index * PERIOD_NS)

    expected, _ = replayed(usual, tmp_path / 'a', settings_of('classical'))
    found, _ = replayed(other, tmp_path / 'b', settings_of('classical'))

    assert len(expected) == 20 and found == expected


@pytest.mark.parametrize('model', NETWORKS)
def test_thread_count_same_image(model):
    """One and two threads give the same image."""
    # Given an image of more than the 32,768 values from which torch divides an operation
    pytest.importorskip('torch', reason='torch is not installed')
    rng = np.random.default_rng(0)
    rgb, thermal = (rng.integers(0, 256, shape, dtype=np.uint8)
                    for shape in ((160, 224, 3), (80, 112)))
    changes = {'model': model, 'preset': 'nano' if model == 'diffmf' else 'light',
               'precision': 'float32'}

    one, two = (Fuser(device='cpu', threads=count, **changes).fuse(rgb, thermal).pixels
                for count in (1, 2))

    assert one.std() > 10 and one.tobytes() == two.tobytes()


def test_fuse_replay_and_api_agree(tmp_path):
    """Fuse replay and the Python front give the same image."""
    # Given pairs of 8 bit, whose gray levels need no history, and images each for itself
    pytest.importorskip('torch', reason='torch is not installed')
    bag = write_bag(tmp_path / 'bag', count=3, bits=8)
    settings = settings_of('diffmf', precision='auto', **{'output.temporal_filter': 0.0})
    expected, _ = replayed(bag, tmp_path / 'replayed', settings)
    fuser = Fuser(preset='nano', device='cpu')

    for index, data in enumerate(expected.values()):
        rgb, thermal = scene(index, bits=8)
        write_image(tmp_path / f'{index}.png', rgb, 'rgb8')
        write_image(tmp_path / f'{index}_t.png', thermal, 'mono8')
        code = run(['fuse', str(tmp_path / f'{index}.png'), str(tmp_path / f'{index}_t.png'),
                    '--preset', 'nano', '--device', 'cpu', '-o', str(tmp_path / f'{index}_f.png')])

        assert code == 0
        assert read_frame(tmp_path / f'{index}_f.png',
                          stream=RGB).pixels[..., ::-1].tobytes() == data
        assert fuser(rgb, thermal).tobytes() == data


@pytest.mark.parametrize('model', ['classical', 'diffmf'])
def test_the_node_publishes_what_replay_writes(model, make_cameras, tmp_path):
    # Given 12 pairs of 16 bit, whose gray levels follow the scene, and what replay makes of them
    if model == 'diffmf':
        pytest.importorskip('torch', reason='torch is not installed')
    bag = write_bag(tmp_path / 'bag', count=12)
    expected, _ = replayed(bag, tmp_path / 'replayed', settings_of(model))

    # When the node gets them one by one
    changes = {'model': model, 'device': 'cpu', 'precision': 'float32', 'threads': 1}
    cameras = make_cameras(**changes, **({'preset': 'nano'} if model == 'diffmf' else {}))
    with BagReader(bag) as reader:
        for pair in pairs_of(reader, DEFAULTS.sync):
            cameras.stamp_ns = pair.rgb.stamp_ns
            cameras.rgb(pair.rgb.pixels, encoding=pair.rgb.encoding)
            cameras.thermal(pair.thermal.pixels, encoding=pair.thermal.encoding)
            cameras.peer.wait_for(lambda: cameras.of(cameras.fused), 'the fused image')

    # Then its images have the same bytes
    found = {stamp_of(message): bytes(message.data) for message in cameras.fused}
    assert found == expected
