# SPDX-License-Identifier: Apache-2.0
"""Several bags, here and on a Ray cluster.

The same bytes, a broken bag skipped, a lost worker replaced.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_inputs import ran

from diffmf_ros.io.bags import BagReader
from diffmf_ros.tools.batch.spreading import spread

CLASSICAL = ('--model', 'classical')


def content(path):
    with BagReader(path) as reader:
        return [(m.topic, m.stamp_ns, m.raw) for m in reader.messages()]


@pytest.fixture
def bags(small_bag, tmp_path, monkeypatch):
    """Three bags of which the second is broken."""
    monkeypatch.chdir(tmp_path)
    for name in 'abc':
        shutil.copytree(small_bag, tmp_path / name)
    (tmp_path / 'b' / 'metadata.yaml').write_text('broken: [')
    return tmp_path


@pytest.mark.parametrize('jobs', ['1', pytest.param('2', marks=pytest.mark.slow)])
def test_broken_bag_leaves_others_unchanged(bags, jobs):
    """A broken bag is named and the others are as alone."""
    alone = ran(['replay', 'a', 'alone', *CLASSICAL])
    outcome = ran(['replay', 'a', 'b', 'c', 'out', '--jobs', jobs, *CLASSICAL, '--json',
                   'told.json'])

    assert (alone.code, outcome.code) == (0, 1), outcome.said
    assert content('out/a') == content('out/c') == content('alone') and not Path('out/b').exists()
    told = json.loads(Path('told.json').read_text())['bags']
    assert told[0]['sha256'] == told[2]['sha256'] and 'cannot read the bag b' in told[1]['error']
    assert outcome.said.count('failed: b: ') == 1


def test_unused_alignment_is_named(bags):
    """The alignment that lies in the folder of a bag is not taken unasked, and that is said."""
    Path('a/alignment.yaml').write_text('homography: [1, 0, 0, 0, 1, 0, 0, 0, 1]\n'
                                        'rgb_size: [64, 48]\nthermal_size: [64, 48]\n')
    unused = ran(['replay', 'a', 'one', *CLASSICAL])
    several = ran(['replay', 'a', 'c', 'out', *CLASSICAL])
    used = ran(['replay', 'a', 'two', *CLASSICAL, '--alignment', 'a/alignment.yaml'])
    assert 'note: a/alignment.yaml is not used' in unused.said
    assert several.said.count('is not used') == 1
    assert 'is not used' not in used.said
    assert (unused.code, several.code) == (0, 0)


def test_same_command_makes_missing_bags(bags):
    """Bags that an earlier run has made in the same way are not made again."""
    # Given a run that made one of two bags, and was killed before it could say so
    first = ran(['replay', 'a', 'b', 'out', *CLASSICAL])
    made, ledger = Path('out/a/metadata.yaml').stat().st_ino, Path('out/.diffmf_fuse.jsonl')
    lines = ledger.read_text().splitlines()
    ledger.write_text('\n'.join(line for line in lines if '"done": false' in line))

    # when it is asked for again with a third bag, then with another setting
    again = ran(['replay', 'a', 'b', 'c', 'out', *CLASSICAL, '--json', 'told.json'])
    other = ran(['replay', 'a', 'c', 'out', *CLASSICAL, '--polarity', 'black_hot'])

    # then the bag stays as it was, the others are tried, and nothing is replaced unasked.
    assert (first.code, again.code) == (1, 1), again.said
    assert '1 of 3 are there already' in again.said
    assert Path('out/a/metadata.yaml').stat().st_ino == made
    assert content('out/c') == content('out/a')
    told = json.loads(Path('told.json').read_text())
    assert told['already_there'] == 1 and [one['bag'] for one in told['bags']] == ['b', 'c']
    assert other.code == 2 and '--overwrite' in other.said
    assert Path('out/a/metadata.yaml').stat().st_ino == made


def test_bags_of_one_name_refused(bags):
    """Two bags of one name are refused."""
    outcome = ran(['replay', 'a', 'c/../a', 'out', *CLASSICAL])

    assert outcome.code == 2 and 'several bags are called a' in outcome.said


def test_missing_ray_names_install(bags, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)

    outcome = ran(['replay', 'a', 'out', '--ray', 'auto', *CLASSICAL])

    assert outcome.code == 2 and 'pip install ray' in outcome.said, outcome.traceback


def test_address_without_cluster_is_one_message(bags):
    """An address without a cluster is one message."""
    pytest.importorskip('ray', reason='ray is not installed (extra [ray])')
    outcome = ran(['replay', 'a', 'out', '--ray', 'auto', *CLASSICAL])

    assert outcome.code == 2 and 'there is no Ray cluster at auto' in outcome.said


def killed_once(task):
    """End the process at the second task the first time, and then give back the number."""
    folder, number = task
    mark = Path(folder) / f'{number}'
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number


@pytest.fixture(scope='module')
def cluster():
    """The address of a cluster of two nodes with a worker each, on this machine."""
    pytest.importorskip('ray', reason='ray is not installed (extra [ray])')
    from ray.cluster_utils import Cluster
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv('PYTHONPATH', os.pathsep.join(filter(None, sys.path)))
        nodes = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})
        nodes.add_node(num_cpus=1)
        yield nodes.address
        nodes.shutdown()


def test_killed_worker_is_replaced(cluster, tmp_path):
    """A worker that is killed is replaced."""
    tasks = [(tmp_path, number) for number in range(6)]

    assert list(spread(killed_once, tasks, ray=cluster)) == list(range(6))
    assert (tmp_path / '1').exists()


def test_a_cluster_gives_the_same_bytes(cluster, bags):
    here = ran(['replay', 'a', 'b', 'c', 'here', *CLASSICAL])
    there = ran(['replay', 'a', 'b', 'c', 'there', '--ray', cluster, *CLASSICAL])

    assert (here.code, there.code) == (1, 1), there.said
    assert content('here/a') == content('there/a') and content('here/c') == content('there/c')
    assert there.said.count('cannot read the bag') == 1


def busy_workers(work):
    """Return the process ids of the workers of this test's cluster that do a work now."""
    found = []
    for place in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if (place / 'cmdline').read_bytes().startswith(b'ray::' + work) and is_ours(place):
                found.append(int(place.name))
    return found


def is_ours(place):
    """Whether a process, by its folder in /proc, descends from this one, which started Ray."""
    while place.name not in ('0', str(os.getpid())):
        about = (place / 'status').read_text()
        place = place.with_name(re.search(r'^PPid:\s*(\d+)', about, re.M)[1])
    return place.name != '0'


@pytest.mark.timeout(900)  # Ray lowers the priority of its workers
def test_killed_worker_changes_no_byte(cluster, camera_bag, tmp_path, monkeypatch):
    """A bag whose worker is killed while it fuses is fused again, to the same bytes."""
    monkeypatch.chdir(tmp_path)
    for name in 'ab':
        shutil.copytree(camera_bag, tmp_path / name)
    here = ran(['replay', 'a', 'b', 'here', *CLASSICAL])

    code = code_after_kill(['replay', 'a', 'b', 'there', '--ray', cluster, *CLASSICAL],
                           b'_replayed', 'there/.*.partial-*/*/*.db3')

    assert (here.code, code) == (0, 0)
    assert content('here/a') == content('there/a') and content('here/b') == content('there/b')


def code_after_kill(arguments, work, begun):
    """Run a command, kill a worker once a file that matches begun is there; return its code."""
    command = subprocess.Popen([sys.executable, '-m', 'diffmf_ros.cli.main', *arguments])
    killed = []
    while not killed and command.poll() is None:
        time.sleep(0.01)
        if list(Path().glob(begun)):
            killed = busy_workers(work)
    assert killed, 'the work ended before a worker that does it was seen'
    os.kill(killed[0], signal.SIGKILL)
    return command.wait(600)


@pytest.mark.timeout(900)
def test_killed_worker_changes_no_file(cluster, tmp_path, monkeypatch):
    """Files of a worker that is killed are fused again, beside one that no machine can read."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    for number, folder in product(range(100), ('vi', 'ir')):
        path = tmp_path / folder / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        shape = (240, 320, 3) if folder == 'vi' else (120, 160)
        cv2.imwrite(str(path), random.integers(0, 256, shape, np.uint8))
    Path('ir/7.png').write_text('no image')
    here = ran(['fuse', 'vi', 'ir', '-o', 'here', *CLASSICAL])

    code = code_after_kill(['fuse', 'vi', 'ir', '-o', 'there', '--ray', cluster, *CLASSICAL],
                           b'_fused', 'there/1?.png')

    assert (here.code, code) == (1, 1)
    files = [{path.name: path.read_bytes() for path in Path(name).glob('*.png')}
             for name in ('here', 'there')]
    assert len(files[0]) == 99 and files[0] == files[1]
