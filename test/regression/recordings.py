# SPDX-License-Identifier: Apache-2.0
"""Generates the small recordings, and lets the core play them in simulated time, without ROS."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np

from diffmf_ros.core.frames import RGB, Frame, FusionResult, Pair
from diffmf_ros.core.settings import Settings
from diffmf_ros.core.sync.pairing import ClosestPairing
from diffmf_ros.core.sync.source_selector import SourceSelector
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import COMPRESSED, IMAGE, START_NS, BagWriter, type_store

PERIOD_NS = 33_333_333
# from stamp to arrival
RGB_DELAY_NS, THERMAL_LATER_NS, THERMAL_DELAY_NS = 8_000_000, 3_000_000, 5_000_000
FIRST_BAD, FIRST_GOOD, COUNT = 20, 50, 80  # ticks


@dataclass(frozen=True)
class Shot:
    """What a camera does in a tick. picture: the tick whose picture it shows."""

    picture: int
    stamp_shift_ns: int = 0


Camera = Callable[[int], Shot | None]


def healthy(tick: int) -> Shot | None:
    """Return the picture of every tick."""
    return Shot(tick)


def frozen(tick: int) -> Shot | None:
    """Return the same picture while the fault lasts."""
    return Shot(FIRST_BAD if FIRST_BAD <= tick < FIRST_GOOD else tick)


def lost(tick: int) -> Shot | None:
    """Return nothing while the fault lasts."""
    return None if FIRST_BAD <= tick < FIRST_GOOD else Shot(tick)


def jumping(tick: int) -> Shot | None:
    """Return pictures whose clock is set back by 10 s when the fault begins."""
    return Shot(tick, -10_000_000_000 if tick >= FIRST_BAD else 0)


def slow(tick: int) -> Shot | None:
    """Return 9 pictures for 30 ticks."""
    return Shot(tick) if tick * 9 // 30 != (tick - 1) * 9 // 30 else None


def scene(tick: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an RGB image, 48 x 64 x 3 uint8, and a thermal one, 24 x 32 uint16, of a warm spot
    that moves."""
    rng = np.random.default_rng((seed, tick))
    rows, columns = np.mgrid[:24, :32]
    far = (columns - 4 - tick % 24) ** 2 + (rows - 12) ** 2
    thermal = 7400 + 20 * columns + 900 * (far < 16) + rng.integers(0, 20, (24, 32))
    rgb = np.repeat(np.repeat(80 + 3 * rows, 2, 0), 2, 1)[...,
                                                          None] + rng.integers(0, 40, (48, 64, 3))
    return rgb.astype(np.uint8), thermal.astype(np.uint16)


def write(path, *, rgb: Camera = healthy, thermal: Camera = healthy, compressed: bool = False,
          rig: str = '', seed: int = 0):
    """Write COUNT ticks of two cameras of 30 Hz to a bag, in the order of their arrival.

    Return the path.
    """
    rows = []
    for tick in range(COUNT):
        at_ns = START_NS + tick * PERIOD_NS
        for stream, shot, stamp_ns, delay_ns in (('rgb', rgb(tick), at_ns, RGB_DELAY_NS),
                                                 ('thermal', thermal(tick),
                                                  at_ns + THERMAL_LATER_NS,
                                                  THERMAL_DELAY_NS)):
            if shot is not None:
                pixels = scene(shot.picture, seed=seed)[stream == 'thermal']
                message = image_message(pixels, 'rgb8' if stream == 'rgb' else 'mono16',
                                        frame_id=f'{rig}{stream}',
                                        stamp_ns=stamp_ns + shot.stamp_shift_ns)
                topic = f'{rig and "/" + rig}/{stream}/image_raw'
                rows.append((stamp_ns + delay_ns, topic, message, pixels))
    with BagWriter(path) as bag:
        for arrival_ns, topic, message, pixels in sorted(rows, key=lambda row: row[0]):
            if compressed:
                data = cv2.imencode('.png', pixels[..., ::-1] if pixels.ndim == 3
                                    else pixels)[1].ravel()
                message = type_store().types[COMPRESSED](message.header, 'png', data)
            bag.write(topic + '/compressed' * compressed, COMPRESSED if compressed else IMAGE,
                      message, arrival_ns)
    return path


@dataclass(frozen=True)
class Output:
    """One image, and when it left on the clock of the arrivals; now_tick counts from the start."""

    result: FusionResult
    work: Pair | Frame
    at_ns: int

    @property
    def now_tick(self) -> int:
        """The tick in which it left."""
        return (self.at_ns - START_NS) // PERIOD_NS

    @property
    def latency_ms(self) -> float:
        """Time from its stamp to when it left."""
        return (self.at_ns - self.result.stamp_ns) / 1e6


def play(frames: Iterator[Frame], settings: Settings) -> list[Output]:
    """Return what the node would publish of frames, decided at their arrival.

    Computing takes no time.
    """
    pairing, fallback = ClosestPairing(settings.sync), SourceSelector(settings.health, base=RGB)
    fallback.sync = settings.sync
    pipeline, outputs = FusionPipeline(settings), []
    for frame in frames:
        now_ns = frame.arrival_ns
        fallback.streams[frame.stream].arrived(frame, now_ns, clock_ns=now_ns)
        for work in fallback.select(frame, pairing.add(frame), now_ns):
            made = pipeline.fuse(work) if isinstance(work, Pair) else pipeline.pass_through(work)
            outputs.append(Output(made, work, now_ns))
    return outputs


def runs(outputs: list[Output]) -> list[tuple[str, int]]:
    """Return the modes over time, (mode, images in a row)."""
    return [(mode, len(list(group))) for mode,
            group in groupby(output.result.mode.value for output in outputs)]
