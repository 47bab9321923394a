# SPDX-License-Identifier: Apache-2.0
"""Kills a process that writes, at a random moment, and reads what is there.

`python test/random_kills.py 200` does so 200 times and says how many results were whole, not
there, or unreadable.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from diffmf_ros.core.frames import RGB
from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import IMAGE, BagReader, BagWriter
from diffmf_ros.io.images import read_frame, write_image
from diffmf_ros.io.media import Row, write_video
from diffmf_ros.io.writing import write_text

# Of the time that one result takes, up to when a process is killed; of a recording, up to when in
# seconds.
LONGEST, LONGEST_S = 3.0, 0.8
# Share of the kills that wait for a first result, and so come while another one replaces it.
SECOND, DEADLINE_S = 0.5, 30.0
SIDE, MESSAGES, FRAMES = 200, 12, 4
WHOLE, ABSENT = 'whole', 'not there'


class Unreadable(Exception):
    """What is there under the final name is not whole."""


def picture(value: int) -> np.ndarray:
    """Return an image of one value everywhere."""
    return np.full((SIDE, SIDE, 3), value % 256, np.uint8)


def _require(right: bool, what: str) -> None:
    if not right:
        raise Unreadable(what)


def _write_png(folder: Path, value: int) -> None:
    write_image(folder / 'a.png', picture(value), 'rgb8')


def _read_png(folder: Path) -> None:
    pixels = read_frame(folder / 'a.png', stream=RGB).pixels
    _require(pixels.shape == (SIDE, SIDE, 3) and np.ptp(pixels) == 0, 'a.png is mixed')


def _write_text(folder: Path, value: int) -> None:
    write_text(folder / 'a.json', f'{value} ' * 40_000)


def _read_text(folder: Path) -> None:
    words = (folder / 'a.json').read_text().split()
    _require(len(words) == 40_000 and len(set(words)) == 1, 'a.json is mixed')


def _write_mp4(folder: Path, value: int) -> None:
    row = Row((picture(value),) * 3)
    for _ in write_video(folder / 'a.mp4', ([row] for _ in range(FRAMES)), fps=10.0, width=160):
        pass


def _read_mp4(folder: Path) -> None:
    film = cv2.VideoCapture(str(folder / 'a.mp4'))
    found = 0
    while film.read()[0]:
        found += 1
    film.release()
    _require(found == FRAMES, f'a.mp4 has {found} frames')


def _message(value: int, number: int):
    return image_message(picture(value)[:, :, 0], 'mono8', stamp_ns=number, frame_id='')


def _write_bag(folder: Path, value: int, *, storage: str) -> None:
    with BagWriter(folder / 'a', storage, overwrite=True) as bag:
        for number in range(MESSAGES):
            bag.write('/a', IMAGE, _message(value, number), number)


def _read_bag(folder: Path) -> None:
    with BagReader(folder / 'a') as reader:
        values = [set(reader.deserialize(message.raw, message.msgtype).data.tolist())
                  for message in reader.messages(['/a'])]
    _require(len(values) == MESSAGES and len(set.union(*values)) == 1,
             f'the bag has {len(values)} messages')


def _record(folder: Path, value: int, *, storage: str) -> None:
    """Record without end, as the recorder does.

    The number of what was committed is in committed.txt.
    """
    with BagWriter(folder / 'a', storage, keep=True) as bag:
        for number in range(1_000_000):
            bag.write('/a', IMAGE, _message(number, number), number)
            if number % 5 == 4:
                bag.commit()
                (folder / 'committed.new').write_text(str(number + 1))
                (folder / 'committed.new').rename(folder / 'committed.txt')


def _read_recording(folder: Path) -> None:
    committed = int((folder / 'committed.txt').read_text())
    with BagReader(folder / 'a.unfinished' / 'a') as reader:
        for number, message in enumerate(reader.messages(['/a'])):
            image = reader.deserialize(message.raw, message.msgtype)
            _require(message.stamp_ns == number and (image.data == number % 256).all(),
                     f'message {number} is wrong')
    _require(number + 1 >= committed, f'{number + 1} of {committed} committed messages are there')


# Kind -> (writes one result over another, reads and compares it, what is there when there is
# anything to read).
KINDS: dict[str, tuple[Callable, Callable, str]] = {
    'image': (_write_png, _read_png, 'a.png'),
    'text': (_write_text, _read_text, 'a.json'),
    'video': (_write_mp4, _read_mp4, 'a.mp4'),
    'bag, sqlite3': (lambda *args: _write_bag(*args, storage='sqlite3'), _read_bag, 'a'),
    'bag, mcap': (lambda *args: _write_bag(*args, storage='mcap'), _read_bag, 'a'),
    'recording, sqlite3': (lambda *args: _record(*args, storage='sqlite3'), _read_recording,
                           'committed.txt'),
    'recording, mcap': (lambda *args: _record(*args, storage='mcap'), _read_recording,
                        'committed.txt'),
}


def _write_until_killed(write: Callable, folder: Path) -> None:
    """Write value after value over each other, in the child process."""
    value = 0
    try:
        while True:
            value += 1
            write(folder, value)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # without the clean-up of the parent


def outcomes(kind: str, *, count: int, seed: int) -> Iterator[str]:
    """Kill `count` processes that write results of a kind, each at a random moment.

    Yield what each one left.

    Raises:
        Exception: whatever reading a result that is not whole raises.
    """
    write, read, there = KINDS[kind]
    chance = random.Random(f'{kind} {seed}')
    longest_s = LONGEST_S if kind.startswith('recording') else LONGEST * _typical_s(kind)
    for _ in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            child = os.fork()
            if child == 0:
                _write_until_killed(write, folder)
            if chance.random() < SECOND:
                _wait_for(folder / there)
            time.sleep(chance.uniform(0, longest_s))
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)[1]
            _require(os.WIFSIGNALED(ended), f'{kind}: the process that writes ended by itself')
            if (folder / there).exists():
                read(folder)
                yield WHOLE
            else:
                yield ABSENT


def _wait_for(result: Path) -> None:
    """Return when a first result is there, as late as a busy machine brings it."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not result.exists() and time.monotonic() < deadline_s:
        time.sleep(0.002)


@lru_cache
def _typical_s(kind: str) -> float:
    """Return how long one result of a kind takes."""
    with tempfile.TemporaryDirectory() as folder:
        KINDS[kind][0](Path(folder), 1)
        start = time.monotonic()
        KINDS[kind][0](Path(folder), 2)
        return time.monotonic() - start


def main(count: int, seed: int) -> int:
    """Kill `count` processes, the kinds in turn; print what they left.

    Returns 1 when anything was unreadable.
    """
    cv2.setNumThreads(1)
    found: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        try:
            found[kind].update(outcomes(kind, count=1, seed=seed + number))
        except Exception as error:
            found[kind][f'unreadable: {error}'] += 1
    for kind, counts in found.items():
        print(
            f'{kind}: {", ".join(f"{number} {what}" for what, number in sorted(counts.items()))}')
    return int(any(what not in (WHOLE, ABSENT) for counts in found.values() for what in counts))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('count', type=int, nargs='?', default=200, help='kills')
    parser.add_argument('seed', type=int, nargs='?', default=0, help='of the moments')
    sys.exit(main(**vars(parser.parse_args())))
