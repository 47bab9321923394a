# SPDX-License-Identifier: Apache-2.0
"""The whole product once: player, node and recorder as processes over real DDS, then pictures and numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .bags import BagReader, stamp_of
from .core.color import join_luma, split_luma
from .core.encodings import decode_message
from .core.frames import DiffmfError
from .core.settings import Settings, describe, updated
from .inference.pipeline import FusionPipeline
from .replay import FUSED_INFO_TOPIC, FUSED_TOPIC, RGB_TOPIC, THERMAL_TOPIC, pairs_of
from .resources import fastdds_environment
from .synthetic.record import ALIGNMENT_FILE, TRUTH_FILE

DIAGNOSTICS_TOPIC = '/diagnostics'
START_TIMEOUT_S = 120  # for the node to load its network on a slow machine
STOP_TIMEOUT_S = 30
# The node reports once a second; this long after the last image a report has counted it.
REPORT_S = 1.5
POLL_S = 0.1


class DemoError(DiffmfError):
    """A process of the demo failed; the message holds the end of its log."""


@dataclass(frozen=True)
class DemoRun:
    """Where the demo works: the input bag, the recorded bag, and the logs of the processes."""

    bag: Path
    fused: Path
    logs: Path
    rate: float
    settings: Settings


def run(demo: DemoRun) -> dict[str, str]:
    """Play demo.bag through the node, record demo.fused; return the node's last diagnostics.

    Raises BagError when the bag cannot be read or lacks the topics, DemoError when a process fails.
    """
    with BagReader(demo.bag) as reader:
        reader.require(RGB_TOPIC, THERMAL_TOPIC)
    demo.logs.mkdir(parents=True, exist_ok=True)
    with _process(demo, 'recorder', demo.fused, FUSED_TOPIC, FUSED_INFO_TOPIC, DIAGNOSTICS_TOPIC,
                  '--overwrite') as recorder:
        with _process(demo, 'fusion_node', '--ros-args', *_parameters(demo.settings)) as node:
            with _process(demo, 'bag_player', demo.bag, '--rate', demo.rate, '--wait-for-subscribers',
                          START_TIMEOUT_S, log=False) as player:
                _watch(demo, player, node, recorder)
            time.sleep(REPORT_S)
            _stop(demo, 'fusion_node', node)
        _stop(demo, 'recorder', recorder)
    return last_diagnostics(demo.fused)


def last_diagnostics(bag: Path) -> dict[str, str]:
    """Return the key values of the last report in a recorded bag. Raises BagError when it has none."""
    with BagReader(bag) as reader:
        *_, last = reader.messages([DIAGNOSTICS_TOPIC])
        status = reader.deserialize(last.raw, last.msgtype).status[0]
        return {item.key: item.value for item in status.values}


def pictures(demo: DemoRun) -> Iterator[tuple]:
    """Yield (rgb, thermal on its grid, fused) for every recorded fused image, colour as rgb8."""
    pipeline = FusionPipeline(updated(demo.settings, {'model': 'classical'}))  # it aligns; nothing is fused
    with BagReader(demo.bag) as source, BagReader(demo.fused) as recorded:
        pairs = pairs_of(source, demo.settings.sync)
        pair = next(pairs, None)
        for message in recorded.messages([FUSED_TOPIC]):
            image = recorded.deserialize(message.raw, message.msgtype)
            stamp_ns = stamp_of(image)
            while pair is not None and pair.rgb.stamp_ns < stamp_ns:
                pair = next(pairs, None)
            if pair is None or pair.rgb.stamp_ns != stamp_ns:
                continue  # live, another partner was the closest that arrived
            fused, _ = decode_message(image)
            fused = fused[:, :, ::-1] if image.encoding == 'bgr8' else fused
            rgb = join_luma(*split_luma(pair.rgb.pixels, pair.rgb.encoding), 'rgb8')
            yield rgb, pipeline.align(pair)[0], fused


def frame_rate(bag: Path) -> float:
    """Return the images a second of a fused bag, by its stamps; 1 for a single image."""
    with BagReader(bag) as reader:
        stamps = [stamp_of(reader.deserialize(m.raw, m.msgtype)) for m in reader.messages([FUSED_INFO_TOPIC])]
    return 1e9 * (len(stamps) - 1) / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 1.0


def truth_of(bag: Path) -> tuple[Path, float] | None:
    """Return the alignment file and the thermal clock offset in ms of a rendered drive; None for others."""
    if not (bag / TRUTH_FILE).is_file():
        return None
    truth = json.loads((bag / TRUTH_FILE).read_text(encoding='utf-8'))
    return bag / ALIGNMENT_FILE, truth['thermal_offset_ms']


def _parameters(settings: Settings) -> list[str]:
    """Return ROS arguments for every setting that is not the default."""
    changed = [item for item, default in zip(describe(settings), describe()) if item.value != default.value]
    return [text for item in changed for text in ('-p', f'{item.name}:={item.value}')]


def _environment(logs: Path) -> dict[str, str]:
    """A ROS domain of its own on this machine, and the transports that carry camera images."""
    return {**os.environ, **fastdds_environment(os.environ), 'ROS_LOG_DIR': str(logs.resolve()),
            'ROS_DOMAIN_ID': str(1 + os.getpid() % 100), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}


@contextmanager
def _process(demo: DemoRun, name: str, *arguments, log: bool = True):
    """Run an executable of the package; it is killed when the block ends and it still runs."""
    with open(demo.logs / f'{name}.txt', 'w') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', f'diffmf_ros.ros.{name}', *map(str, arguments)],
            stdout=file if log else None, stderr=file if log else None, env=_environment(demo.logs))
    try:
        yield process
    finally:
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
        raise DemoError(f'bag_player ended with exit code {player.returncode}; its message is above')


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
    return DemoError(f'{name} ended with exit code {process.returncode}:\n' + '\n'.join(tail))
