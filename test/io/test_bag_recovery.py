# SPDX-License-Identifier: Apache-2.0
"""Recordings that end before their time: what was stored until then opens as a bag."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import IMAGE, STORAGES, BagError, BagReader, BagWriter

# Writes images of 100 kB, commits after every fifth, says so, and goes on until it is ended.
WRITE_ON = """
import sys
import numpy as np
from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import IMAGE, BagWriter
with BagWriter(sys.argv[1], sys.argv[2], keep=True) as bag:
    for k in range(1, 100_000):
        pixels = np.full((250, 400), k % 256, np.uint8)
        bag.write('/a', IMAGE, image_message(pixels, 'mono8', stamp_ns=k, frame_id=''), k)
        if k % 5 == 0:
            bag.commit()
            print(k, flush=True)
"""


def written(bag, numbers):
    for k in numbers:
        pixels = np.full((250, 400), k % 256, np.uint8)
        bag.write('/a', IMAGE, image_message(pixels, 'mono8', stamp_ns=k, frame_id=''), k)


def stamps(path):
    """Return the recording times of a bag, after comparing every image with what was written."""
    with BagReader(path) as reader:
        found = []
        for message in reader.messages(['/a']):
            image = reader.deserialize(message.raw, message.msgtype)
            assert (image.data == message.stamp_ns % 256).all()
            found.append(message.stamp_ns)
        return found, reader.note


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('until', [5, 25, 60])
def test_kill_keeps_committed_messages(tmp_path, storage, until):
    """A kill loses nothing that was committed."""
    # Given a recorder that is killed at any time after a commit
    with subprocess.Popen([sys.executable, '-c', WRITE_ON, tmp_path / 'bag', storage],
                          stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < until:
            pass
        process.kill()

    # Then what it left is under a name one can find, says what it is, and holds all of it in order
    assert [path.name for path in tmp_path.iterdir()] == ['bag.unfinished']
    found, note = stamps(tmp_path / 'bag.unfinished' / 'bag')
    assert len(found) >= until and found == list(range(1, len(found) + 1))
    assert 'was cut short: what was stored until then is read' in note


@pytest.mark.parametrize('storage', STORAGES)
def test_full_disk_keeps_committed_messages(tmp_path, storage):
    """A full disk loses nothing that was committed and is reported in a line."""
    # Given a place for 2 MB
    code = f'{WRITE_ON.replace("with BagWriter", "with Refused(), BagWriter")}'
    refused = ('from contextlib import suppress\nfrom diffmf_ros.io.bags import BagError\n'
               'class Refused:\n'
               '    def __enter__(self): pass\n'
               '    def __exit__(self, kind, error, trace):\n'
               '        print(error, file=sys.stderr)\n'
               '        return isinstance(error, BagError)\n')
    done = subprocess.run(
        [sys.executable, '-c', 'import sys\n' + refused + code, tmp_path / 'bag', storage],
        capture_output=True,
        text=True, timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)))

    committed = int(done.stdout.split()[-1])
    assert done.returncode == 0 and committed >= 10
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f'cannot write a bag at {tmp_path / "bag"}: ')
    assert f'what was stored until then is in {tmp_path}/bag.unfinished/bag' in done.stderr
    found, _ = stamps(tmp_path / 'bag.unfinished' / 'bag')
    assert found == list(range(1, len(found) + 1)) and len(found) >= committed


@pytest.mark.parametrize('storage', STORAGES)
def test_commits_leave_normal_bag(tmp_path, storage):
    """Commits leave a finished bag as any."""
    with BagWriter(tmp_path / 'bag', storage, keep=True) as bag:
        for k in range(4):
            written(bag, range(10 * k, 10 * k + 10))
            bag.commit()
            bag.commit()

    assert [path.name for path in tmp_path.iterdir()] == ['bag']
    assert stamps(tmp_path / 'bag') == (list(range(40)), '')


def test_writer_error_finishes_bag(tmp_path):
    """An error around the writer finishes what is kept."""
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / 'bag', keep=True) as bag:
        written(bag, range(3))
        raise ZeroDivisionError

    assert stamps(tmp_path / 'bag') == ([0, 1, 2], '')


def test_earlier_cut_recording_is_untouched(tmp_path):
    """An earlier recording that was cut short is not touched."""
    (tmp_path / 'bag.unfinished').mkdir()
    (tmp_path / 'bag.unfinished' / 'x').write_text('dear')

    with BagWriter(tmp_path / 'bag', keep=True) as bag:
        assert bag.folder == tmp_path / 'bag.unfinished-2' / 'bag'
        written(bag, range(2))

    assert sorted(path.name for path in tmp_path.iterdir()) == ['bag', 'bag.unfinished']
    assert (tmp_path / 'bag.unfinished' / 'x').read_text() == 'dear'


@pytest.mark.parametrize('keep', [0.35, 0.7, 0.98])
def test_mcap_read_to_last_chunk(tmp_path, keep):
    """An MCAP file is read to its last whole chunk."""
    # Given a file of 40 images of 100 kB in chunks of 1 MB, cut anywhere, without metadata
    with BagWriter(tmp_path / 'bag', 'mcap') as bag:
        written(bag, range(40))
    file = tmp_path / 'bag' / 'bag.mcap'
    content = file.read_bytes()
    cut = content[:int(keep * len(content))]
    file.write_bytes(cut)
    (tmp_path / 'bag' / 'metadata.yaml').unlink()

    for path in (tmp_path / 'bag', file):
        found, note = stamps(path)
        # Then at most the chunk that was cut is missing, and the file is as it was
        assert found == list(range(len(found))) and keep * 40 - 12 <= len(found) <= keep * 40
        assert 'was cut short' in note
    assert file.read_bytes() == cut


def test_storage_without_metadata_is_named(tmp_path):
    """Several storage files without metadata are named."""
    for name in ('a.db3', 'b.mcap'):
        (tmp_path / name).write_bytes(b'')

    with pytest.raises(BagError, match='open one of them itself: a.db3, b.mcap'), BagReader(
            tmp_path):
        pass
