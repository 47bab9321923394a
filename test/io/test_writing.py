# SPDX-License-Identifier: Apache-2.0
"""Outputs: whole or not at all, never an input, never in place of another file unless asked for.
"""

import os
import pathlib
import stat
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import random_kills
import yaml
from diffmf_process import diffmf

from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import IMAGE, BagError, BagReader, BagWriter
from diffmf_ros.io.writing import (
    WriteError,
    is_input,
    partial_name,
    remove_unfinished,
    replacing,
    require_output,
    require_result_output,
    write_bytes,
    write_text,
)

FULL = '/dev/full'


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def bag(path, *, count=2, extra=None, **options):
    """Write a bag of `count` images on /a, with a further file of that name."""
    with BagWriter(path, **options) as writer:
        for k in range(count):
            pixels = np.full((4, 5), k, np.uint8)
            writer.write('/a', IMAGE, image_message(pixels, 'mono8', stamp_ns=k, frame_id=''), k)
        if extra:
            (writer.folder / extra).write_text(f'{count} images')
    return path


def count_of(path):
    with BagReader(path) as reader:
        return len(list(reader.messages(['/a'])))


def test_file_appears_whole_with_umask(tmp_path):
    """A file appears whole with the mode of the umask."""
    # Given a umask that hides from others
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / 'new' / 'a.bin', b'whole')
    finally:
        os.umask(before)

    # Then the folder was made, the file has mode 640, and nothing else is left
    assert (tmp_path / 'new' / 'a.bin').read_bytes() == b'whole'
    assert stat.S_IMODE((tmp_path / 'new' / 'a.bin').stat().st_mode) == 0o640
    assert names(tmp_path / 'new') == ['a.bin']


@pytest.mark.parametrize('error', [ZeroDivisionError, KeyboardInterrupt])
def test_error_keeps_old_file(tmp_path, error):
    """An error half way leaves the old file."""
    (tmp_path / 'a.txt').write_text('old')

    with pytest.raises(error), replacing(tmp_path / 'a.txt') as partial:
        partial.write_text('ne')
        raise error

    assert (tmp_path / 'a.txt').read_text() == 'old'
    assert names(tmp_path) == ['a.txt']


def test_kill_keeps_old_file(tmp_path):
    """A kill half way leaves the old file."""
    # Given a process that is killed while it writes
    (tmp_path / 'a.txt').write_text('old')
    code = ('import sys, time; from diffmf_ros.io.writing import replacing\n'
            'with replacing(sys.argv[1]) as partial:\n'
            '    partial.write_text("half"); print("there", flush=True); time.sleep(60)')
    with subprocess.Popen([sys.executable, '-c', code, tmp_path / 'a.txt'],
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b'there\n'
        process.kill()

    assert (tmp_path / 'a.txt').read_text() == 'old'


class Disk:
    """What a power cut would leave: data since their fsync, names since that of their folder."""

    def __init__(self, monkeypatch):
        self.data, self.names, self.lost, self.renamed = {}, {}, [], 0
        looks = {'fsync': self.before_fsync, 'rename': self.before_rename,
                 'replace': self.before_rename, 'unlink': None}
        for name, look in looks.items():
            watched = self.watched(getattr(os, name), look)
            monkeypatch.setattr(os, name, watched)
            # Python 3.10 keeps the functions of os that a path calls
            if name in vars(getattr(pathlib, '_NormalAccessor', object)):
                monkeypatch.setattr(pathlib._NormalAccessor, name, staticmethod(watched))

    def watched(self, call, look):
        def watched(*arguments, **more):
            if look:
                look(*arguments)
            call(*arguments, **more)
            if call.__name__ != 'fsync':  # a name in a folder means something else now
                changed = arguments[call.__name__ in ('rename', 'replace')]
                self.names.pop(os.stat(os.path.dirname(os.path.abspath(changed))).st_ino, None)
        return watched

    def before_fsync(self, descriptor):
        path = os.readlink(f'/proc/self/fd/{descriptor}')
        if os.path.isdir(path):
            self.names[os.stat(path).st_ino] = set(os.listdir(path))
        else:
            self.data[os.stat(path).st_ino] = Path(path).read_bytes()

    def before_rename(self, source, target):
        """Data come before their name, and all else in a bag before its metadata."""
        self.renamed += 1
        if '.partial' in str(target):  # as rosbags does where nobody looks
            return
        self.require_stored(source)
        if os.path.basename(target) == 'metadata.yaml':
            self.require_name(os.path.dirname(target))

    def require_name(self, folder):
        if not self.names.get(os.stat(folder).st_ino, set()) >= set(os.listdir(folder)):
            self.lost.append(f'names in {folder}')

    def require_stored(self, path):
        path = Path(path)
        for inner in [path, *path.rglob('*')] if path.is_dir() else [path]:
            if inner.is_dir():
                self.require_name(inner)
            elif self.data.get(inner.stat().st_ino) != inner.read_bytes():
                self.lost.append(f'data of {inner}')


@pytest.mark.parametrize('kind', [kind for kind in random_kills.KINDS if 'recording' not in kind])
def test_power_cut_loses_nothing(tmp_path, monkeypatch, kind):
    """New or over an older result: data are on the disk before their name, and at last both."""
    write, _, there = random_kills.KINDS[kind]
    disk = Disk(monkeypatch)

    for value in (1, 2):
        write(tmp_path / 'new' / 'deep', value)

        assert disk.renamed >= value  # seen at all
        assert disk.lost == []
        for folder in (tmp_path / 'new' / 'deep', tmp_path / 'new', tmp_path):
            disk.require_name(folder)
        disk.require_stored(tmp_path / 'new' / 'deep' / there)
        assert disk.lost == []


def test_interrupt_while_folder_is_made(tmp_path, monkeypatch):
    """A signal that comes when the folder of a new bag is made, and nobody has it yet."""
    made = Path.mkdir

    def interrupted(path, *args, **options):
        made(path, *args, **options)
        if 'partial' in path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'mkdir', interrupted)
    with pytest.raises(KeyboardInterrupt):
        bag(tmp_path / 'a')
    assert len(names(tmp_path)) == 1

    remove_unfinished()
    assert names(tmp_path) == []


def test_bag_without_messages_leaves_nothing(tmp_path):
    """Not even the folders that were made for it."""
    with pytest.raises(BagError, match='no message was written'):
        bag(tmp_path / 'new' / 'deep' / 'a', count=0, keep=True)

    assert names(tmp_path) == []


def test_power_cut_keeps_a_recording(tmp_path, monkeypatch):
    """What is committed stays; SQLite brings its own files to the disk by itself."""
    disk = Disk(monkeypatch)

    with BagWriter(tmp_path / 'a', 'mcap', keep=True) as writer:
        for number in range(3):
            image = image_message(np.full((4, 5), number, np.uint8), 'mono8', stamp_ns=number,
                                  frame_id='')
            writer.write('/a', IMAGE, image, number)
            writer.commit()
            disk.require_stored(tmp_path / 'a.unfinished')
            disk.require_name(tmp_path)

            assert disk.lost == []


def test_replacing_needs_overwrite(tmp_path):
    """An existing file is replaced only when asked for."""
    (tmp_path / 'a.txt').write_text('old')

    with pytest.raises(WriteError, match='a.txt exists already; --overwrite replaces it'):
        require_output(tmp_path / 'a.txt', overwrite=False)
    with pytest.raises(WriteError, match='exists already'):
        write_text(tmp_path / 'a.txt', 'new', overwrite=False)
    assert (tmp_path / 'a.txt').read_text() == 'old'

    require_output(tmp_path / 'a.txt', overwrite=True)
    write_text(tmp_path / 'a.txt', 'new')
    assert (tmp_path / 'a.txt').read_text() == 'new'


def test_input_is_never_output(tmp_path):
    """An input is never an output under any name."""
    # Given an input, links to it and a folder of inputs
    (tmp_path / 'vi').mkdir()
    image = tmp_path / 'vi' / 'a.png'
    image.write_bytes(b'x')
    (tmp_path / 'link.png').symlink_to(image)
    os.link(image, tmp_path / 'hard.png')

    for name in ('vi/a.png', 'link.png', 'hard.png', 'vi/../vi/a.png'):
        with pytest.raises(WriteError, match='is read as an input'):
            require_output(tmp_path / name, overwrite=True, inputs=(None, image))
    with pytest.raises(WriteError, match='is read as an input'):
        require_output(image, overwrite=True, inputs=(tmp_path / 'vi',))
    # Then a new file in a folder of inputs, and an old report there, are no inputs
    (tmp_path / 'vi' / 'scores.json').write_text('')
    for name in ('b.png', 'scores.json'):
        assert not is_input(tmp_path / 'vi' / name, (tmp_path / 'vi',))


def test_link_is_followed_and_kept(tmp_path):
    """A link is followed and stays one."""
    (tmp_path / 'real.txt').write_text('old')
    (tmp_path / 'link.txt').symlink_to(tmp_path / 'real.txt')

    write_text(tmp_path / 'link.txt', 'new')

    assert (tmp_path / 'link.txt').is_symlink()
    assert (tmp_path / 'real.txt').read_text() == 'new'


@pytest.mark.parametrize('name, reason', [
    ('file/a.txt', 'a part of its path is a file'), ('folder', 'it is a folder'),
    ('x' * 300, 'the name is too long'), ('/proc/x.txt', 'no file or folder can be made there'),
    ('/proc/x/x.txt', 'no file or folder can be made there')])
def test_impossible_outputs_fail_early(tmp_path, name, reason):
    """Impossible outputs are reported in one line before the work."""
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder').mkdir()

    with pytest.raises(WriteError, match=f'cannot be written: {reason}') as error:
        require_output(tmp_path / name, overwrite=True)
        write_text(tmp_path / name, 'x')

    assert '\n' not in str(error.value)
    assert names(tmp_path) == ['file', 'folder']


@pytest.mark.skipif(not os.path.exists(FULL), reason='this system has no /dev/full')
def test_full_disk_and_devices():
    """A full disk is named and a device is written to itself."""
    with pytest.raises(WriteError, match='/dev/full cannot be written: the disk is full'):
        write_bytes(FULL, b'x' * 100_000)
    write_text('/dev/null', 'gone')
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)


@pytest.mark.parametrize('name', ['/dev/stdout', '/dev/fd/1'])
def test_redirected_output_keeps_its_file(tmp_path, name):
    """The standard output is no file to write when it goes to one, which would be emptied."""
    log = tmp_path / 'log'
    log.write_text('before')
    kept = os.dup(1)
    with log.open('a') as file:
        os.dup2(file.fileno(), 1)
    try:
        with pytest.raises(WriteError, match='would be lost'):
            require_output(name, overwrite=True)
        with pytest.raises(WriteError, match='would be lost'):
            write_text(Path(name), 'text')
    finally:
        os.dup2(kept, 1)
        os.close(kept)

    assert log.read_text() == 'before'


def test_bag_overwrite_keeps_other_files(tmp_path):
    """Overwriting a bag leaves other files of its folder."""
    # Given a bag with a file of its own beside the storage, and one of the user's
    path = bag(tmp_path / 'bag', extra='ground_truth.json')
    (path / 'flight_log.txt').write_text('dear')

    # When another bag, in another storage, takes its place
    bag(path, count=5, storage='mcap', overwrite=True)

    # Then all that belonged to the old one is gone and the user's file is there
    assert names(path) == ['bag.mcap', 'flight_log.txt', 'metadata.yaml']
    assert (path / 'flight_log.txt').read_text() == 'dear'
    assert count_of(path) == 5
    assert names(tmp_path) == ['bag']


def test_bag_with_extra_files_read(tmp_path):
    """A bag with further files is read as any."""
    path = bag(tmp_path / 'bag', extra='ground_truth.json')

    about = yaml.safe_load((path / 'metadata.yaml').read_text())['rosbag2_bagfile_information']

    assert about['custom_data'] == {'diffmf_ros.files': 'ground_truth.json'}
    assert count_of(path) == 2


@pytest.mark.parametrize('read', ['bag', 'bag/bag.db3', 'bag/metadata.yaml', 'link'])
def test_bag_being_read_is_kept(tmp_path, read):
    """A bag that is read is never replaced."""
    path = bag(tmp_path / 'bag')
    (tmp_path / 'link').symlink_to(path)

    with pytest.raises(BagError, match='is read as an input'):
        bag(path, count=5, overwrite=True, inputs=(tmp_path / read,))

    assert count_of(path) == 2
    assert names(tmp_path) == ['bag', 'link']


def test_bag_of_unknown_files_kept(tmp_path):
    """A bag whose own files are unknown is not replaced."""
    path = bag(tmp_path / 'bag')
    (path / 'metadata.yaml').write_text('just text')

    with pytest.raises(BagError, match='it is not known which files are the bag'):
        bag(path, overwrite=True)

    assert names(path) == ['bag.db3', 'metadata.yaml']


def test_bag_replaced_through_link(tmp_path):
    """A bag is replaced through a link."""
    path = bag(tmp_path / 'bag')
    (tmp_path / 'link').symlink_to(path)

    bag(tmp_path / 'link', count=3, overwrite=True)

    assert (tmp_path / 'link').is_symlink()
    assert count_of(path) == 3


@pytest.fixture
def files(tmp_path):
    """Return a folder with a pair of images, a bag, and reports that exist."""
    random = np.random.default_rng(0)
    for name in ('vi', 'ir'):
        (tmp_path / name).mkdir()
    for path in ('rgb.png', 'vi/0.png'):
        cv2.imwrite(str(tmp_path / path), random.integers(0, 256, (24, 32, 3), np.uint8))
    for path in ('thermal.png', 'ir/0.png'):
        cv2.imwrite(str(tmp_path / path), random.integers(0, 256, (24, 32), np.uint8))
    bag(tmp_path / 'bag')
    for name in ('there.json', 'there.html', 'there.onnx', 'there.yaml', 'there.safetensors'):
        (tmp_path / name).write_text('dear')
    return tmp_path


COMMANDS = [
    ('fuse', 'rgb.png', 'thermal.png', '-o', 'rgb.png', '--overwrite', '--model', 'classical'),
    ('fuse', 'rgb.png', 'thermal.png', '-o', 'vi/0.png', '--model', 'classical'),
    ('fuse', 'rgb.png', 'thermal.png', '-o', 'there.json/a.png', '--model', 'classical'),
    ('replay', 'bag', 'bag', '--overwrite'),
    ('replay', 'bag/bag.db3', 'bag', '--overwrite'),
    ('align', 'vi', 'ir', '-o', 'there.yaml'),
    ('align', 'vi', 'ir', '--overlay', 'ir/0.png', '--overwrite'),
    ('eval', '--pairs', '.', '--model', 'average', '--json', 'there.json'),
    ('eval', '--pairs', '.', '--model', 'average', '--html', 'there.html'),
    ('export', '--onnx', 'there.onnx'),
    ('bench', '--model', 'classical', '--json', 'there.json'),
    ('models', '--json', 'there.json'),
    ('sample-bag', 'bag'),
    ('sample-pairs', 'there.json', '--scene', 'night', '--count', '1', '--seconds', '1'),
    ('make-bag', '.', 'bag', '--rate', '10'),
    ('convert-weights', 'there.safetensors', '-o', './there.safetensors', '--overwrite'),
    ('demo', '--bag', 'bag', '--out', '.'),
]


@pytest.mark.parametrize('arguments', COMMANDS,
                         ids=lambda arguments: ' '.join(arguments[:1] + arguments[-2:]))
def test_commands_never_replace_foreign_files(files, monkeypatch, arguments):
    """No command replaces what it must not."""
    # Given all that is there
    if arguments[0] == 'demo':
        bag(files / 'fused')
    monkeypatch.chdir(files)
    before = {path: path.read_bytes() for path in files.rglob('*') if path.is_file()}
    started = time.monotonic()

    done = diffmf(*arguments)

    # Then it ends at once with a line that says why, and everything is as it was
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    assert any(words in ' '.join(done.stderr.split()) for words in (
        'exists already', 'is read as an input', 'a file, ')), done.stderr
    assert {path: path.read_bytes() for path in files.rglob('*') if path.is_file()} == before
    assert time.monotonic() - started < 60


def test_leftovers_of_dead_process_removed(tmp_path, capsys):
    """What a killed process left is removed and said and that of others stays."""
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    own = f'-{os.getpid()}.partial'
    stale = [tmp_path / f'{partial_name(name)}{end}'.replace(own, f'-{dead.pid}.partial')
             for name, end in (('a', '.png'), ('bag', '-x1y2'))]
    stale[0].write_bytes(b'half')
    stale[1].mkdir()
    (stale[1] / 'bag.db3').write_bytes(b'half')
    # and of a process that lives, of another machine on the same disk, and of the user
    kept = [tmp_path / f'{partial_name("b")}.png'.replace(own, f'-{os.getppid()}.partial'),
            tmp_path / f'.b.other-{dead.pid}.partial.png', tmp_path / '.mine.partial.png',
            tmp_path / 'a.png']
    for path in kept:
        path.write_bytes(b'mine')

    write_bytes(tmp_path / 'new.png', b'whole')
    write_bytes(tmp_path / 'newer.png', b'whole')

    assert [path.exists() for path in (*stale, *kept)] == [False] * 2 + [True] * 4
    said = capsys.readouterr().err
    assert said.count('what a run that was killed had left half written') == 1
    assert all(path.name in said for path in stale)


@pytest.mark.parametrize('content, free', [
    ('{"out": "a", "stop": "end"}', True),
    ('{"out": "a"}', False),
    ('{"out": "a", "stop": "end", "notes": 1}', False),
    ('["out", "stop"]', False),
    ('notes of mine', False),
    ('[' * 100_000, False),
])
def test_only_own_result_is_replaced(tmp_path, content, free):
    """A command that goes on may replace the JSON file of its earlier run, and no other."""
    path = tmp_path / 'result.json'
    require_result_output(path, ('out', 'stop'))
    path.write_text(content)

    if free:
        require_result_output(path, ('out', 'stop'))
    else:
        with pytest.raises(WriteError, match='is no result of this command'):
            require_result_output(path, ('out', 'stop'))
