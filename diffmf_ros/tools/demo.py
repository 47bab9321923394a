# SPDX-License-Identifier: Apache-2.0
"""The whole product once: player, node and recorder as processes over real DDS, then pictures and
numbers."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from ..core.frames import RGB, THERMAL, DiffmfError
from ..core.imaging.color import join_luma, split_luma
from ..core.imaging.encodings import decode_message
from ..core.settings import DEFAULTS, Settings, iter_specs, with_changes
from ..inference.pipeline import FusionPipeline
from ..io.bag_messages import stamp_of
from ..io.bags import COMPRESSED, BagReader, image_topic
from ..io.media import TITLES, Row, Triple, write_contact_sheet, write_video
from ..io.resources import fastdds_environment
from .bag_cameras import info_topic
from .replay import RGB_TOPIC, THERMAL_TOPIC, ReplayCounts, pairs_of
from .replay_outputs import FUSED_INFO_TOPIC, FUSED_TOPIC
from .synthetic.drive import Drive, DriveSettings, Sighting, sightings
from .synthetic.record import recorded_drive

DIAGNOSTICS_TOPIC = '/diagnostics'
START_TIMEOUT_S = 120  # for the node to load its network on a slow machine
STOP_TIMEOUT_S = 30
OBEYS_S = 2.0  # an executable of ours has ended so long after a signal
# The node reports once a second; this long after the last image a report has counted it.
REPORT_S = 1.5
POLL_S = 0.1
LEAST_FREE_BYTES = 1 << 14


class DemoError(DiffmfError):
    """A process of the demo failed; the message holds the end of its log."""


@dataclass(frozen=True)
class DemoRun:
    """Where the demo works: the input bags in order of their stamps, the recorded bag, the logs of
    the processes; topics: of the RGB and the thermal images, which all bags have."""

    bags: tuple[Path, ...]
    fused: Path
    logs: Path
    rate: float
    settings: Settings
    topics: tuple[str, str] = RGB_TOPIC, THERMAL_TOPIC


def run(demo: DemoRun) -> dict[str, str]:
    """Play demo.bags through one node, record demo.fused; return the node's last diagnostics.

    Raises BagError when a bag cannot be read or lacks the topics, DemoError when a process fails,
    or nothing was fused.
    """
    cameras, played = _cameras(demo)
    demo.logs.mkdir(parents=True, exist_ok=True)
    with _process(demo, 'recorder', demo.fused, FUSED_TOPIC, FUSED_INFO_TOPIC, DIAGNOSTICS_TOPIC,
                  '--overwrite') as recorder:
        with _process(demo, 'fusion_node', '--ros-args', *cameras,
                      *_parameters(demo.settings)) as node:
            with _process(demo, 'bag_player', *demo.bags, '--topics', *played, '--rate',
                          demo.rate, '--wait-for-subscribers', START_TIMEOUT_S,
                          log=False) as player:
                _watch(demo, player, node, recorder)
            time.sleep(REPORT_S)
            _stop(demo, 'fusion_node', node)
        _stop(demo, 'recorder', recorder)
    report = last_diagnostics(demo.fused)
    if not int(report['pairs']) or not int(report['fused']):
        raise _nothing_fused(demo, report)
    return report


def _nothing_fused(demo: DemoRun, report: dict[str, str]) -> DemoError:
    """Return what the node reports of the frames that it did not fuse."""
    left_out = ', '.join(f'{count} {name.removeprefix("dropped.")}' for name, count
                         in report.items() if name.startswith('dropped.'))
    return DemoError(
        f'the node fused no pair: {report["rgb_in"]} RGB and {report["thermal_in"]} thermal '
        f'images came, {report["pairs"]} pairs; left out: {left_out or "nothing"}; its log is '
        f'{demo.logs / "fusion_node.txt"}, and `diffmf replay {demo.bags[0]} OUT` says more')


def last_diagnostics(bag: Path) -> dict[str, str]:
    """Return the key values of the last report in a recorded bag.

    Raises BagError when it has none.
    """
    with BagReader(bag) as reader:
        *_, last = reader.messages([DIAGNOSTICS_TOPIC])
        status = reader.deserialize(last.raw, last.msgtype).status[0]
        return {item.key: item.value for item in status.values}


def why_unpaired(demo: DemoRun) -> list[str]:
    """Return why frames of each bag have no partner, by the stamps of the recordings."""
    lines = []
    for bag in demo.bags:
        counts = ReplayCounts()
        with BagReader(bag) as reader:
            for _ in pairs_of(reader, demo.settings.sync, rgb_topic=demo.topics[0],
                              thermal_topic=demo.topics[1], counts=counts):
                pass
        lines += [f'{bag}: {count} unpaired: {counts.reasons["unpaired"]}'
                  for reason, count in counts.dropped.items() if reason == 'unpaired']
    return lines


@cache
def domain() -> int:
    """Return the ROS domain of the demos of this process, one that nobody here uses now.

    The first node of a domain on a machine listens on UDP port 7410 + 250 * domain (RTPS 9.6.1).
    """
    try:
        rows = Path('/proc/net/udp').read_text().splitlines()[1:]
    except OSError:
        rows = []
    used = {int(row.split()[1].rpartition(':')[2], 16) for row in rows}
    own = os.getpid() % 100
    numbers = [1 + (own + further) % 100 for further in range(100)]
    return next((number for number in numbers if 7410 + 250 * number not in used), numbers[0])


def _cameras(demo: DemoRun) -> tuple[list[str], list[str]]:
    """Return ROS arguments that name the image topics of the bags, and the topics to play.

    Those are the images and, where all bags have them, the camera infos beside them: nobody would
    subscribe to images of further cameras.

    Raises:
        BagError: a bag cannot be read, or lacks a topic.
    """
    arguments: list[str] = []
    played: list[str] = []
    with ExitStack() as stack:
        readers = [stack.enter_context(BagReader(bag)) for bag in demo.bags]
        for stream, topic in zip((RGB, THERMAL), demo.topics, strict=True):
            image = image_topic(readers[0], topic)
            for reader in readers:
                reader.require(image)
            compressed = readers[0].topics[image].msgtype == COMPRESSED
            name = f'{stream}/image_raw' + ('/compressed' if compressed else '')
            arguments += ['-r', f'{name}:={image}']
            if compressed:
                arguments += ['-p', f'input.{stream}_transport:=compressed']
            info = info_topic(image)
            played += [image, *([info] if all(reader.has(info) for reader in readers) else [])]
    return arguments, played


def _parameters(settings: Settings) -> list[str]:
    """Return ROS arguments for every setting that is not the default."""
    changed = [item for item, default in zip(iter_specs(settings), iter_specs(DEFAULTS))
               if item.value != default.value]
    return [text for item in changed for text in ('-p', f'{item.name}:={item.value}')]


def _environment(logs: Path) -> dict[str, str]:
    """Return a ROS domain of its own on this machine, and the transports that carry camera images.
    """
    return {**os.environ, **fastdds_environment(os.environ), 'ROS_LOG_DIR': str(logs.resolve()),
            'ROS_DOMAIN_ID': str(domain()), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}


@contextmanager
def _process(demo: DemoRun, name: str, *arguments, log: bool = True):
    """Run an executable of the package; it is ended when the block ends and it still runs."""
    with open(demo.logs / f'{name}.txt', 'w') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', f'diffmf_ros.ros.{name}', *map(str, arguments)],
            stdout=file if log else None, stderr=file if log else None,
            env=_environment(demo.logs))
    try:
        yield process
    finally:
        process.terminate()  # what is killed leaves its shared memory behind
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(OBEYS_S)
        finally:  # also when Ctrl-C comes once more
            process.kill()
            process.wait()


def _watch(demo: DemoRun, player, node, recorder) -> None:
    """Return when the player is done. Raises DemoError as soon as any process fails."""
    while player.poll() is None:
        for name, process in (('fusion_node', node), ('recorder', recorder)):
            if process.poll() is not None:
                raise _failure(demo, name, process)
        time.sleep(POLL_S)
    if player.returncode:
        raise DemoError(f'bag_player ended with exit code {player.returncode}; its message is '
                        f'above')


def _stop(demo: DemoRun, name: str, process) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f'{name} did not stop within {STOP_TIMEOUT_S} s of SIGINT') from error
    if process.returncode:
        raise _failure(demo, name, process)


def _failure(demo: DemoRun, name: str, process) -> DemoError:
    tail = (demo.logs / f'{name}.txt').read_text().strip().splitlines()[-15:]
    if shutil.disk_usage(demo.logs).free < LEAST_FREE_BYTES:
        tail.append('the disk is full')  # which the log has no room to say
    return DemoError(f'{name} ended with exit code {process.returncode}:\n' + '\n'.join(tail))


SHEET_ROWS = 5


@dataclass
class SceneCount:
    """How many people stood out in RGB, thermal and fused, over all pictures of a scene that were
    fused."""

    scene: str
    people: int = 0
    seen: np.ndarray = field(default_factory=lambda: np.zeros(3, int))

    def add(self, found: Sequence[Sighting]) -> None:
        """Count the people of one picture."""
        self.people += len(found)
        self.seen += np.sum([person.seen for person in found], axis=0, dtype=int) if found else 0


@cache
def drive_of(settings: DriveSettings) -> Drive:
    """Return the drive of these settings; making one takes a second, so it is kept."""
    return Drive(settings)


def pictures(demo: DemoRun, bag: Path) -> Iterator[tuple[int, Triple]]:
    """Yield the stamp and (rgb, thermal on its grid, fused) of every fused image of a bag, color
    as rgb8.

    Raises:
        DemoError: a fused image is not of the size of the bag's.
    """
    # it aligns; nothing is fused
    pipeline = FusionPipeline(with_changes(demo.settings, {'model': 'classical'}))
    with BagReader(bag) as source, BagReader(demo.fused) as recorded:
        pairs = pairs_of(source, demo.settings.sync, rgb_topic=demo.topics[0],
                         thermal_topic=demo.topics[1])
        pair = next(pairs, None)
        for message in recorded.messages([FUSED_TOPIC]):
            image = recorded.deserialize(message.raw, message.msgtype)
            stamp_ns = stamp_of(image)
            while pair is not None and pair.rgb.stamp_ns < stamp_ns:
                pair = next(pairs, None)
            if pair is None or pair.rgb.stamp_ns != stamp_ns:
                continue  # of another bag; or live, another partner was the closest that arrived
            pixels, _ = decode_message(image)
            pixels = pixels[:, :, ::-1] if image.encoding == 'bgr8' else pixels
            if pixels.shape[:2] != pair.rgb.pixels.shape[:2]:
                raise DemoError(f'{demo.fused} holds an image of another size than {bag}: another '
                                f'node published in ROS domain {domain()}. Run the demo again')
            rgb = join_luma(*split_luma(pair.rgb.pixels, pair.rgb.encoding), 'rgb8')
            yield stamp_ns, (rgb, pipeline.align(pair)[0], pixels)


def rows(demo: DemoRun, bag: Path, counts: list[SceneCount]) -> Iterator[tuple[Row, int]]:
    """Yield a row for every fused image of a bag, and how many people it shows; of a rendered
    drive, with marks.

    Appends the count of a rendered drive to counts and keeps it up to date.
    """
    recorded = recorded_drive(bag)
    if recorded is None:
        for _, images in pictures(demo, bag):
            yield Row(images), 0
        return
    drive, count = drive_of(recorded.settings), SceneCount(recorded.settings.scene)
    counts.append(count)
    for stamp_ns, images in pictures(demo, bag):
        found = sightings(drive.truth(recorded.exposures_ns[stamp_ns]), *images)
        count.add(found)
        yield _marked(images, count.scene, found), len(found)


def _marked(images: Triple, scene: str, found: Sequence[Sighting]) -> Row:
    seen = [sum(person.seen[k] for person in found) for k in range(3)]
    rgb, thermal, fused = (f'{scene}, {title}: {number} of {len(found)} people stand out'
                           for title, number in zip(TITLES, seen, strict=True))
    marks = [[(person.actor.box_px, person.seen[k]) for person in found] for k in range(3)]
    return Row(images, (rgb, thermal, fused), (marks[0], marks[1], marks[2]))


def draw(demo: DemoRun, counts: list[SceneCount], total: int) -> Iterator[int]:
    """Write fused.mp4 and fused.png beside the fused bag, a row for each bag.

    Yields the frames drawn so far.

    The picture of one bag shows five of its `total` instants; of several bags, the one with most
    people of each.
    """
    chosen = {round((i + 0.5) * total / SHEET_ROWS) for i in range(SHEET_ROWS)}
    sheet: list[Row] = []
    best: list[tuple[Row, int]] = []

    def frames() -> Iterator[list[Row]]:
        columns = [rows(demo, bag, counts) for bag in demo.bags]
        for index, together in enumerate(zip(*columns, strict=False)):
            # Of equals the last one: the first of a bag may be the image of one camera alone.
            best[:] = [max(pair, key=lambda item: item[1])
                       for pair in zip(together, best or together, strict=True)]
            if index in chosen:
                sheet.append(together[0][0])
            yield [row for row, _ in together]

    yield from write_video(demo.fused.with_suffix('.mp4'), frames(), fps=frame_rate(demo.fused))
    write_contact_sheet(demo.fused.with_suffix('.png'),
                        sheet if len(demo.bags) == 1 else [row for row, _ in best])


def frame_rate(bag: Path) -> float:
    """Return the images a second of a fused bag, by its stamps; 1 for a single image."""
    with BagReader(bag) as reader:
        stamps = [stamp_of(reader.deserialize(m.raw, m.msgtype))
                  for m in reader.messages([FUSED_INFO_TOPIC])]
    return 1e9 * (len(stamps) - 1) / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 1.0
