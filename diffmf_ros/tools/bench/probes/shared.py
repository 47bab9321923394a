# SPDX-License-Identifier: Apache-2.0
"""What the probes share: two moving cameras and a homography between them, a pipeline whose
network takes a fixed time, and the job as it is usually written, for comparison."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import yaml
from sensor_msgs.msg import CameraInfo, Image

from ....core.settings import Settings
from ....inference.fault_tolerance import DirectRunner, FaultTolerantRunner
from ....inference.network import LoadedNetwork, Network
from ....inference.pipeline import FusionPipeline
from ....inference.prepare import CpuBackend
from ....ros import messages

FRAMES = 8  # different images of each camera, in turn
_STEP_PX = 3  # by which the scene moves from image to image
_TEXTURE = 7000, 7400  # counts of the thermal background, before it is smoothed
_WARMER, _PEOPLE = 1500, 8  # counts by which so many people are warmer than it


def moving_images(size: tuple[int, int], *, seed: int) -> tuple[list[Image], list[Image]]:
    """Return (rgb, thermal): FRAMES messages each, bgr8 and mono16 of this (width, height),
    without stamps. Thermal shows people before a textured background, RGB a texture."""
    rng = np.random.default_rng(seed)
    width, height = size
    extent = height, width + _STEP_PX * FRAMES
    texture = cv2.GaussianBlur(rng.integers(0, 256, (*extent, 3), np.uint8), (0, 0), 2)
    heat = rng.integers(*_TEXTURE, extent, np.uint16)
    for x, y in zip(rng.integers(0, extent[1], _PEOPLE), rng.integers(0, height, _PEOPLE)):
        cv2.ellipse(heat, (int(x), int(y)), (height // 40, height // 12), 0, 0, 360,
                    _TEXTURE[1] + _WARMER, -1)
    heat = cv2.GaussianBlur(heat, (0, 0), 2)
    rgb, thermal = [], []
    for left in range(0, _STEP_PX * FRAMES, _STEP_PX):
        rgb.append(_noisy(texture[:, left:left + width], rng, 'bgr8', 'rgb'))
        thermal.append(_noisy(heat[:, left:left + width], rng, 'mono16', 'thermal'))
    return rgb, thermal


def homography(size: tuple[int, int]) -> np.ndarray:
    """3x3 from thermal to RGB pixels, both of this (width, height).

    Thermal is smaller, turned, and does not see a border.
    """
    width, height = size
    return np.array([[0.9, -0.03, 0.06 * width], [0.03, 0.9, 0.04 * height], [1e-5, -2e-5, 1.0]])


def write_alignment(folder: str | Path, size: tuple[int, int]) -> Path:
    """Write homography(size) as an alignment file into folder; return its path."""
    path = Path(folder) / 'alignment.yaml'
    path.write_text(yaml.safe_dump({'rgb_from_thermal': homography(size).tolist(),
                                    'rgb_size': list(size), 'thermal_size': list(size)}),
                    encoding='utf-8')
    return path


def _noisy(pixels: np.ndarray, rng: np.random.Generator, encoding: str, frame_id: str) -> Image:
    """The message of pixels with the noise of a camera: no two images are equal."""
    noisy = pixels + rng.integers(0, 3, pixels.shape, pixels.dtype)
    return messages.make_image(noisy, encoding, messages.make_header(0, frame_id))


class StubNetwork:
    """In place of inference.network.Network: returns luminance after compute_ms.

    The thread sleeps meanwhile, as one does that waits for a GPU; 0 returns at once.
    """

    name = 'a network of fixed time'
    device = 'none'
    problems: tuple[str, ...] = ()

    def __init__(self, compute_ms: float):
        self._compute_s = compute_ms / 1e3
        self.backend = CpuBackend(self._fuse)

    def renew(self) -> None:
        """Nothing is kept."""

    def _fuse(self, ir: np.ndarray, y: np.ndarray) -> np.ndarray:
        time.sleep(self._compute_s)
        return y


def timed_pipeline(settings: Settings, *, watchdog: bool = False,
                   compute_ms: float) -> FusionPipeline:
    """Return a FusionPipeline with a StubNetwork. settings must name the classical model.

    None is loaded.
    """
    pipeline = FusionPipeline(settings, watchdog=watchdog)
    network = StubNetwork(compute_ms)
    runner_of = FaultTolerantRunner if watchdog else DirectRunner
    pipeline.swap(LoadedNetwork(runner_of(cast(Network, network)), network.name, network.device))
    return pipeline


QUEUE = 10
SLOP_S = 0.05


def synchronizer(inputs: list, callback: Callable[[Image, Image], None]):
    """Return the approximate synchronizer of message_filters on its filters inputs.

    Raises ImportError without it.
    """
    from message_filters import ApproximateTimeSynchronizer

    synchronizer = ApproximateTimeSynchronizer(inputs, QUEUE, SLOP_S)
    synchronizer.registerCallback(callback)
    return synchronizer


class UsualFusion:
    """The job of the node as it is usually written: what `diffmf bench --shell` compares with.

    message_filters pairs, images are converted as cv_bridge does, thermal is stretched from its
    minimum to its maximum, and everything happens in the callback. It checks nothing and survives
    nothing; both probes say so. Messages are fused with network(thermal, y), which takes and
    returns H x W uint8.
    """

    def __init__(self, homography: np.ndarray,
                 network: Callable[[np.ndarray, np.ndarray], np.ndarray]):
        """homography is 3x3, from thermal to RGB pixels."""
        self._homography, self._network = homography, network

    def __call__(self, rgb: Image, thermal: Image, stage) -> tuple[Image, CameraInfo]:
        """Return the fused image and its camera info; every stage ends with stage.lap(name)."""
        bgr = np.frombuffer(rgb.data, np.uint8).reshape(rgb.height, rgb.width, 3)
        counts = np.frombuffer(thermal.data, np.uint16).reshape(thermal.height, thermal.width)
        stage.lap('decode')
        gray = np.empty(counts.shape, np.uint8)
        cv2.normalize(counts, gray, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
        warped = cv2.warpPerspective(gray, self._homography, (rgb.width, rgb.height))
        stage.lap('align')
        y, cr, cb = cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2YCrCb))
        stage.lap('color')
        fused = self._network(warped, y)
        stage.lap('network')
        picture = cv2.cvtColor(cv2.merge((fused, cr, cb)), cv2.COLOR_YCrCb2BGR)
        stage.lap('color')
        image = _message(picture, rgb)
        info = CameraInfo(header=rgb.header, width=rgb.width, height=rgb.height)
        stage.lap('messages')
        return image, info


def _message(picture: np.ndarray, base: Image) -> Image:
    """As CvBridge.cv2_to_imgmsg: bytes, which releases that check every field take value by value.
    """
    message = Image(header=base.header, height=picture.shape[0], width=picture.shape[1],
                    encoding='bgr8', step=picture.strides[0])
    message.data = picture.tobytes()
    return message
