# SPDX-License-Identifier: Apache-2.0
"""The whole product once: player, node and recorder as processes over real DDS, then pictures and numbers."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..core.frames import DiffmfError
from ..core.settings import Settings, describe
from ..io.bags import BagReader
from ..io.resources import fastdds_environment
from .replay import FUSED_INFO_TOPIC, FUSED_TOPIC, RGB_TOPIC, THERMAL_TOPIC

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
    """Where the demo works: the input bags in order of their stamps, the recorded bag, the logs of the processes."""

    bags: tuple[Path, ...]
    fused: Path
    logs: Path
    rate: float
    settings: Settings


def run(demo: DemoRun) -> dict[str, str]:
    """Play demo.bags through one node, record demo.fused; return the node's last diagnostics.

    Raises BagError when a bag cannot be read or lacks the topics, DemoError when a process fails.
    """
    for bag in demo.bags:
        with BagReader(bag) as reader:
            reader.require(RGB_TOPIC, THERMAL_TOPIC)
    demo.logs.mkdir(parents=True, exist_ok=True)
    with _process(demo, 'recorder', demo.fused, FUSED_TOPIC, FUSED_INFO_TOPIC, DIAGNOSTICS_TOPIC,
                  '--overwrite') as recorder:
        with _process(demo, 'fusion_node', '--ros-args', *_parameters(demo.settings)) as node:
            for bag in demo.bags:
                with _process(demo, 'bag_player', bag, '--rate', demo.rate, '--wait-for-subscribers',
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


def domain() -> int:
    """Return the ROS domain of the demos of this process, one that hardly anybody else uses."""
    return 1 + os.getpid() % 100


def _parameters(settings: Settings) -> list[str]:
    """Return ROS arguments for every setting that is not the default."""
    changed = [item for item, default in zip(describe(settings), describe()) if item.value != default.value]
    return [text for item in changed for text in ('-p', f'{item.name}:={item.value}')]


def _environment(logs: Path) -> dict[str, str]:
    """Return a ROS domain of its own on this machine, and the transports that carry camera images."""
    return {**os.environ, **fastdds_environment(os.environ), 'ROS_LOG_DIR': str(logs.resolve()),
            'ROS_DOMAIN_ID': str(domain()), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}


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
