# SPDX-License-Identifier: Apache-2.0
"""`diffmf fuse` of folders, patterns and videos: what pairs, what is skipped, what failed."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from bad_inputs import ran

CLASSICAL = ('--model', 'classical')
NAMES = 'rgb_{}.png thermal_{}.png'


def images(folder, names, seed=0, *, bits=8):
    random = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape, high, kind = (
            ((48, 64, 3), 256, np.uint8) if bits == 8 else ((24, 32), 9000, np.uint16)
        )
        cv2.imwrite(str(path), random.integers(0, high, shape, kind))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of four pairs, one of them below, and one RGB image without a partner."""
    monkeypatch.chdir(tmp_path)
    images(tmp_path / 'vi', ['1.png', '2.png', '10.jpg', 'far/2.png'])
    images(tmp_path / 'ir', ['1.png', '2.png', '10.tiff', 'far/2.png'], 1, bits=16)
    return tmp_path


def fused(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('[!.]*.png')}


def test_folders_match_by_stem(folders):
    """Folders match by stem and give what single pairs do."""
    outcome = ran(['fuse', 'vi', 'ir', '-o', 'out', *CLASSICAL])
    single = ran(['fuse', 'vi/2.png', 'ir/2.png', '-o', 'single.png', *CLASSICAL])

    assert (outcome.code, single.code) == (0, 0), outcome.said
    assert set(fused(folders / 'out')) == {'1.png', '2.png', '10.png'}
    assert fused(folders / 'out')['2.png'] == (folders / 'single.png').read_bytes()


def test_swapped_folders_are_one_note(folders):
    """Folders in the wrong order are told by color, and said once for all pairs."""
    outcome = ran(['fuse', 'ir', 'vi', '-o', 'out', *CLASSICAL])

    (note,) = (line for line in outcome.said.splitlines() if 'is in color' in line)
    assert note.startswith('vi/1.png is in color and ir/1.png is gray: ')
    assert note.endswith('(3: 1, 2, 10)') and outcome.code == 0


@pytest.mark.slow
@pytest.mark.parametrize('jobs', ['2', '0'])
def test_several_processes_give_the_same_bytes(folders, jobs):
    one = ran(['fuse', '-r', 'vi', 'ir', '-o', 'one', *CLASSICAL])
    many = ran(['fuse', '-r', 'vi', 'ir', '-o', 'many', '--jobs', jobs, *CLASSICAL])

    assert (one.code, many.code) == (0, 0), many.said
    assert fused(folders / 'one') == fused(folders / 'many')
    assert set(fused(folders / 'one')) == {'1.png', '2.png', '10.png', 'far/2.png'}


def test_patterns_match_by_wildcards(folders):
    """Patterns match by what stands for the wildcards."""
    assert ran(['fuse', 'vi/**/*.png', 'ir/**/*.png', '-o', 'out', *CLASSICAL]).code == 0
    assert set(fused(folders / 'out')) == {'1.png', '2.png', 'far/2.png'}


def test_shell_files_visible_then_thermal(folders):
    """Files of the shell are all visible and then all thermal."""
    assert (
        ran(['fuse', 'vi/1.png', 'vi/2.png', 'ir/1.png', 'ir/2.png', '-o', 'out', *CLASSICAL]).code
        == 0
    )
    assert ran(['fuse', 'vi', 'ir', '-o', 'all', *CLASSICAL]).code == 0
    assert fused(folders / 'out').items() < fused(folders / 'all').items()


def test_unmatched_names_are_reported(tmp_path, monkeypatch):
    """Names of one folder match and what is alone is named."""
    monkeypatch.chdir(tmp_path)
    images(tmp_path / 'm', ['rgb_1.png', 'rgb_2.png', 'rgb_7.png'])
    images(tmp_path / 'm', ['thermal_1.png', 'thermal_2.png', 'thermal_8.png'], 1, bits=16)
    (tmp_path / 'm' / 'thermal_2.png').write_text('no image')
    for name in ('rgb_9.png', 'thermal_9.png'):
        (tmp_path / 'm' / name).symlink_to('nowhere.png')

    outcome = ran(['fuse', 'm', '--match', NAMES, '-o', 'out', *CLASSICAL, '--json', 'told.json'])

    assert outcome.code == 1
    assert set(fused(tmp_path / 'out')) == {'1.png'}
    failed = json.loads((tmp_path / 'told.json').read_text())['failed']
    for text in (
        'rgb_7.png: there is no thermal image',
        'thermal_8.png: there is no visible image',
        'thermal_2.png cannot be read',
        'rgb_9.png',
    ):
        assert sum(text in line for line in failed) == 1 and text in outcome.said


def test_finished_files_are_skipped(folders):
    """What is done is not done again unless something changed."""
    assert ran(['fuse', 'vi', 'ir', '-o', 'out', *CLASSICAL]).code == 0
    before = {path: path.stat().st_mtime_ns for path in (folders / 'out').glob('*.png')}
    (folders / 'out' / '1.png').unlink()

    again = ran(['fuse', 'vi', 'ir', '-o', 'out', *CLASSICAL])
    other = ran(['fuse', 'vi', 'ir', '-o', 'out', *CLASSICAL, '--polarity', 'black_hot'])
    images(folders / 'ir', ['2.png'], 9, bits=16)
    changed = ran(['fuse', 'vi', 'ir', '-o', 'out', *CLASSICAL])

    assert again.code == 0 and '2 of 3 are there already' in again.said
    same = [path for path, stamp in before.items() if path.stat().st_mtime_ns == stamp]
    assert sorted(path.name for path in same) == ['10.png', '2.png']
    assert other.code == changed.code == 2
    assert '3 of the 3 files' in other.said and '--overwrite' in other.said
    assert '1 of the 3 files' in changed.said and 'out/2.png' in changed.said


@pytest.mark.slow
def test_killed_run_is_resumed(tmp_path, monkeypatch):
    """A run that was killed is taken up."""
    monkeypatch.chdir(tmp_path)
    images(tmp_path / 'vi', [f'{number}.png' for number in range(200)])
    images(tmp_path / 'ir', [f'{number}.png' for number in range(200)], 1, bits=16)
    command = ['fuse', 'vi', 'ir', '-o', 'out', *CLASSICAL]
    process = subprocess.Popen(
        [sys.executable, '-m', 'diffmf_ros.cli.main', *command], stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 60
    while len(fused(tmp_path / 'out')) < 5 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Given a last line of which the rest was lost, and a file of which only the line was
    ledger = tmp_path / 'out' / '.diffmf_fuse.jsonl'
    lines = ledger.read_text().splitlines()
    ledger.write_text('\n'.join(lines[:-1]) + '\n' + lines[-1][:20])
    there = fused(tmp_path / 'out')

    resumed = ran(command)

    assert resumed.code == 0, resumed.said
    assert 5 <= len(there) < 200 and f'{len(there)} of 200 are there already' in resumed.said
    assert len(fused(tmp_path / 'out')) == 200 and there.items() < fused(tmp_path / 'out').items()


@pytest.mark.parametrize(
    'arguments, words',
    [
        (('vi', 'ir/1.png'), 'vi is a folder'),
        (('vi/1.png', 'vi/2.png', 'ir/1.png'), 'got 3'),
        (('vi',), 'expected two images'),
        (('vi/1.png', 'vi/1.png', 'ir/1.png', 'ir/1.png'), 'several visible images are called'),
        (('vi', 'ir', '--match', 'rgb.png'), 'expected two patterns'),
        (('vi', 'ir', '--match', NAMES), 'there is no pair of images'),
        (('none', 'ir'), 'none does not exist'),
        (('vi/*.bmp', 'ir/*.bmp'), 'there is no pair of images'),
        (('vi', 'ir', '-o', 'vi/1.png'), 'vi/1.png'),
        (('vi/1.png', 'ir/1.png', '--ray', 'auto'), 'or lists of images: --ray'),
    ],
)
def test_wrong_use_is_one_message(folders, arguments, words):
    outcome = ran(['fuse', *arguments, *CLASSICAL])

    assert outcome.code == 2 and not outcome.traceback
    assert words in ' '.join(outcome.said.replace('│', '').split())


def test_output_never_replaces_input(folders):
    """An output never takes the place of an input."""
    before = (folders / 'vi' / '2.png').read_bytes()

    outcome = ran(['fuse', 'vi', 'ir', '-o', 'vi', '--overwrite', *CLASSICAL])

    assert outcome.code == 2 and 'is read as an input' in outcome.said
    assert (folders / 'vi' / '2.png').read_bytes() == before


def film(path, *, count, rate_hz, level):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate_hz, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), level(number), np.uint8))
    writer.release()


def test_videos_pair_by_frame_rate(tmp_path, monkeypatch):
    """Two videos pair by their frame rates."""
    # Given RGB at 30 Hz, and thermal at 10 Hz whose right half rises by 20 levels a frame
    monkeypatch.chdir(tmp_path)
    film(tmp_path / 'rgb.avi', count=30, rate_hz=30, level=lambda number: 100)
    heat = cv2.VideoWriter('heat.avi', cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
    for number in range(10):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, 32:] = 20 + 20 * number
        heat.write(picture)
    heat.release()

    outcome = ran(
        ['fuse', 'rgb.avi', 'heat.avi', '-o', 'out.mp4', *CLASSICAL, '--json', 'told.json',
         '--temporal-filter', '0']
    )

    # Then three frames after each other show the same thermal frame
    assert outcome.code == 0, outcome.said
    told = json.loads((tmp_path / 'told.json').read_text())
    assert (told['frames_per_s'], sum(told['modes'].values())) == (30, 30)
    result, levels = cv2.VideoCapture('out.mp4'), []
    while (read := result.read())[0]:
        levels.append(read[1][8:40, 40:56].mean() - read[1][8:40, 8:24].mean())
    assert len(levels) == 30
    steps = np.abs(np.diff(levels))
    assert steps[2::3].mean() > 4 * np.delete(steps, np.s_[2::3]).mean()


def test_longer_video_is_reported(tmp_path, monkeypatch):
    """A video that is longer than the other is reported."""
    monkeypatch.chdir(tmp_path)
    film(tmp_path / 'rgb.avi', count=12, rate_hz=10, level=lambda number: 90 + number)
    film(tmp_path / 'heat.avi', count=6, rate_hz=10, level=lambda number: 9 * number)

    outcome = ran(['fuse', 'rgb.avi', 'heat.avi', '-o', 'out.mp4', *CLASSICAL])

    assert outcome.code == 0
    assert 'rgb.avi: 6 of its 12 frames were used: the other video is shorter' in outcome.said


@pytest.mark.skipif(
    not hasattr(os, 'sched_getaffinity'),
    reason='processes are killed by their parent on Linux alone',
)
def test_dead_worker_is_one_line(folders, monkeypatch):
    """A worker that dies ends in one line."""
    from diffmf_ros.tools.batch import spreading

    def killed(jobs, **options):
        pool = real(jobs, **options)
        pool.submit(os._exit, 1)
        return pool

    real = spreading.ProcessPoolExecutor
    monkeypatch.setattr(spreading, 'ProcessPoolExecutor', killed)
    outcome = ran(['fuse', 'vi', 'ir', '-o', 'out', '--jobs', '2', *CLASSICAL])

    assert outcome.code == 2 and 'processes has ended' in outcome.said and not outcome.traceback


@pytest.mark.parametrize('late', [False, True])
def test_worker_ends_with_parent(late):
    """A worker does not outlive a process that is killed, not even while it begins."""
    program = f"""
import multiprocessing, time
from diffmf_ros.tools.batch.spreading import end_with_parent

def work():
    print('begins', flush=True)
    time.sleep({int(late)})
    end_with_parent()
    print('works', flush=True)
    time.sleep(60)

multiprocessing.get_context('fork').Process(target=work).start()
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE) as parent:
        for _ in ['begins'] if late else ['begins', 'works']:
            parent.stdout.readline()
        parent.kill()
        begin_s = time.monotonic()
        said = parent.stdout.read()  # until the last process that writes there has ended

    assert time.monotonic() - begin_s < 30
    assert not said


def test_terminated_worker_leaves_nothing_half(tmp_path):
    """A SIGTERM to all of a group ends a worker, too, without a half-written file."""
    program = """
import sys, time
from pathlib import Path
from diffmf_ros.io.writing import unfinished_folder
from diffmf_ros.tools.batch.spreading import end_with_parent

end_with_parent()
(unfinished_folder(Path(sys.argv[1])) / 'file').write_text('half')
print('works', flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, '-c', program, tmp_path / 'half'],
                          stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        worker.terminate()

    assert worker.returncode == 143 and not list(tmp_path.iterdir())
