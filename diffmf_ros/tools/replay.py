# SPDX-License-Identifier: Apache-2.0
"""Fuses a recording offline, and counts what became of its frames and why frames were left out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.alignment.camera import CalibrationError, CameraModel, output_info
from ..core.frames import RGB, THERMAL, DiffmfError, Frame, FrameError, FusionResult, Pair
from ..core.settings import SyncSettings
from ..core.sync.pairing import BEGIN_RATIO, MARGIN, ClosestPairing
from ..inference.pipeline import FusionPipeline
from ..io.bag_messages import frames
from ..io.bags import BagReader
from .bag_cameras import BagCameras, bag_extrinsics, recorded_camera
from .replay_outputs import FUSED_INFO_TOPIC, BagOutput, FilmOutput, PictureOutput

# Reasons of the pairing, which are no fault of a frame.
_PAIRING = {
    'unpaired': 'no frame of the other camera was close enough and free',
    'late': 'older than a frame of its camera that was fused before',
    'duplicate': 'a frame of the same camera has the same stamp',
    'clock_jump': 'the stamps went back',
    'overflow': 'more than 64 frames waited for a partner',
}
RGB_TOPIC, THERMAL_TOPIC = '/rgb/image_raw', '/thermal/image_raw'
# Frames of one camera that the pairing sees before it knows how fast the camera is.
_FIRST_FRAMES = 5
# One camera is faster than the other from this ratio of their rates on.
_FASTER = 1.02


class ReplayError(DiffmfError):
    """Nothing of a bag could be fused."""


@dataclass
class ReplayCounts:
    """What became of the frames of a bag; modes and dropped are counted by name and reason.

    by_camera: frames that decoded, of each camera. reasons: the first sentence of each reason in
    dropped.
    distance_ms: where frames left unpaired, the median of every thermal stamp minus the closest
    RGB stamp, corrected.
    problems: what was not as the settings ask for, a sentence each.
    """

    frames: int = 0
    pairs: int = 0
    by_camera: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    distance_ms: float | None = None
    problems: set[str] = field(default_factory=set)

    def __post_init__(self):
        self._digest = hashlib.sha256()
        self._stamps_ns: dict[str, list[int]] = {RGB: [], THERMAL: []}
        self._paired_ns: list[int] = []

    @property
    def sha256(self) -> str:
        """Hash of the stamps and pixels of all fused images, in hexadecimal digits."""
        return self._digest.hexdigest()

    @property
    def refused(self) -> int:
        """Number of frames and pairs that could not be used, other than for want of a partner."""
        return sum(count for reason, count in self.dropped.items() if reason not in _PAIRING)

    def came(self, frame: Frame, *, offset_ns: int) -> None:
        """Count a frame that decoded; offset_ns is added to its stamp before pairing."""
        self.frames += 1
        self.by_camera[frame.stream] += 1
        self._stamps_ns[frame.stream].append(frame.stamp_ns + offset_ns)

    def refuse(self, stream: str, error: FrameError) -> None:
        """Count a frame, or a pair (stream ''), that cannot be used."""
        self.dropped[error.reason] += 1
        self.reasons.setdefault(error.reason, f'{stream}: {error}' if stream else str(error))

    def paired(self, pair: Pair, *, offset_ns: int) -> None:
        """Note that an RGB frame got a partner; offset_ns is added to its stamp."""
        self._paired_ns.append(pair.rgb.stamp_ns + offset_ns)

    def unmatched(self, dropped: Counter, *, sync: SyncSettings) -> None:
        """Count frames that left without a partner, by reason."""
        self.dropped.update(dropped)
        for reason in dropped:
            self.reasons[reason] = _PAIRING.get(reason, reason)
        if dropped['unpaired'] and all(self._stamps_ns.values()):
            self.distance_ms = typical_distance_ms(*self._stamps_ns.values())
            why = why_unpaired(self._stamps_ns, self._paired_ns, sync,
                               distance_ms=self.distance_ms)
            self.reasons['unpaired'] += f' ({why})'

    def fused(self, result: FusionResult) -> None:
        """Count a fused image."""
        self.modes[result.mode.value] += 1
        self._digest.update(result.stamp_ns.to_bytes(8, 'little', signed=True))
        self._digest.update(np.ascontiguousarray(result.pixels).data)

    def lines(self) -> list[str]:
        """Return a line for every reason why frames were left out, the most frequent first."""
        return [f'{count} {reason}: {self.reasons.get(reason, reason)}' for reason,
                count in self.dropped.most_common()]

    def as_dict(self) -> dict:
        """Return plain types, for JSON."""
        return {'frames': self.frames, 'rgb_frames': self.by_camera[RGB],
                'thermal_frames': self.by_camera[THERMAL], 'pairs': self.pairs,
                'refused': self.refused, 'modes': dict(self.modes), 'dropped': dict(self.dropped),
                'reasons': self.reasons, 'thermal_minus_rgb_ms': self.distance_ms,
                'problems': sorted(self.problems),
                'sha256': self.sha256}

    def require_images(self) -> 'ReplayCounts':
        """Return these. Raises ReplayError, with the reasons, unless an image was fused."""
        if not self.modes:
            came = ' and '.join(f'{self.by_camera[stream]} of {stream}'
                                for stream in (RGB, THERMAL))
            raise ReplayError(f'nothing was fused: {came} came; left out: '
                              f'{"; ".join(self.lines()) or "nothing"}')
        return self


def pairs_of(reader: BagReader, sync: SyncSettings, *, rgb_topic: str = RGB_TOPIC,
             thermal_topic: str = THERMAL_TOPIC,
             counts: ReplayCounts | None = None) -> Iterator[Pair]:
    """Yield the pairs of a bag in the order of their stamps.

    Bad frames are counted in counts.dropped.
    """
    counts = ReplayCounts() if counts is None else counts
    pairing = ClosestPairing(sync)
    offsets_ns = {RGB: round(sync.rgb_offset_ms * 1e6),
                  THERMAL: round(sync.thermal_offset_ms * 1e6)}

    def noted(pair: Pair) -> Pair:
        counts.paired(pair, offset_ns=offsets_ns[RGB])
        return pair

    for frame in frames(reader, rgb_topic, thermal_topic, refused=counts.refuse):
        counts.came(frame, offset_ns=offsets_ns[frame.stream])
        yield from map(noted, pairing.add(frame))
    yield from map(noted, pairing.flush())
    counts.unmatched(pairing.dropped, sync=sync)


def fuse_bag(reader: BagReader, out: BagOutput | FilmOutput | PictureOutput,
             pipeline: FusionPipeline, sync: SyncSettings, *, rgb_topic: str = RGB_TOPIC,
             thermal_topic: str = THERMAL_TOPIC, from_tf: bool = False,
             report: Callable[[Pair], None] = lambda pair: None,
             judge: Callable[[Pair, FusionResult], object] = lambda pair, result: None,
             ) -> ReplayCounts:
    """Write the fused image and camera info of every pair; report(pair) is called after each.

    judge gets every pair and what it was fused to. from_tf takes the mounting from the bag's TF. A
    message is recorded at the time at which the later frame of its pair was. The first camera
    infos beside the image topics describe the cameras, also for the alignment. The info of the
    output grid's camera goes out at the size of the fused image; it is uncalibrated when none
    fits, and counts.problems says why.

    Raises:
        ReplayError: nothing was fused; it says why.
        BagError: the bag cannot be read, or lacks a topic; or the other one cannot be written.
    """
    counts = ReplayCounts(problems={reader.note} - {''})
    cameras = _cameras(reader, pipeline, counts, {RGB: rgb_topic, THERMAL: thermal_topic},
                       from_tf=from_tf)
    for pair in pairs_of(reader, sync, rgb_topic=rgb_topic, thermal_topic=thermal_topic,
                         counts=counts):
        counts.pairs += 1
        try:
            result = pipeline.fuse(cameras.pair(pair))
        except FrameError as error:
            counts.refuse('', error)
            continue
        issues = *pipeline.aligner.issues, *result.issues
        counts.problems.update(cameras.problems, (issue.text for issue in issues))
        recorded_ns = max(pair.rgb.arrival_ns, pair.thermal.arrival_ns)
        out.write(result, _info(cameras.camera(result.grid), result, counts), recorded_ns)
        counts.fused(result)
        judge(pair, result)
        report(pair)
    return counts.require_images()


def _cameras(reader: BagReader, pipeline: FusionPipeline, counts: ReplayCounts,
             topics: dict[str, str], *, from_tf: bool) -> BagCameras:
    """Return the cameras that a bag describes, which the pipeline knows then; note doubts."""
    infos = {stream: recorded_camera(reader, topic, refused=counts.problems.add)
             for stream, topic in topics.items()}
    cameras = BagCameras(infos, pipeline.settings, changed=pipeline.aligner.set_camera)
    counts.problems.update(info.doubt(topics[stream], stream) for stream, info in infos.items()
                           if info and not cameras.rectified(stream))
    counts.problems.discard('')
    if from_tf:
        _take_mounting(reader, infos, pipeline, counts)
    return cameras


def _take_mounting(reader: BagReader, infos: dict[str, CameraModel | None],
                   pipeline: FusionPipeline, counts: ReplayCounts) -> None:
    """Give the pipeline the mounting of the TF messages of a bag, or count why there is none."""
    mounting = bag_extrinsics(reader, infos)
    if isinstance(mounting, str):
        counts.problems.add(mounting)
    else:
        pipeline.aligner.set_extrinsics(mounting)


def _info(camera: CameraModel | None, result: FusionResult,
          counts: ReplayCounts) -> CameraModel | None:
    """Return the calibration of a fused image, or None."""
    try:
        return camera and output_info(camera, result.pixels.shape[1::-1])
    except CalibrationError as error:
        counts.problems.add(f'{result.grid}: {error}; {FUSED_INFO_TOPIC} is uncalibrated')
        return None


def typical_distance_ms(rgb_ns: Sequence[int], thermal_ns: Sequence[int]) -> float:
    """Return the median of every thermal stamp minus the RGB stamp that is closest to it."""
    rgb, thermal = np.unique(rgb_ns), np.asarray(thermal_ns)
    right = np.searchsorted(rgb, thermal).clip(0, len(rgb) - 1)
    left = (right - 1).clip(0)
    away = np.stack((thermal - rgb[left], thermal - rgb[right]))
    closest = np.take_along_axis(away, np.abs(away).argmin(axis=0)[None], axis=0)
    return float(np.median(closest)) / 1e6


def why_unpaired(stamps_ns: dict[str, list[int]], paired_ns: Sequence[int], sync: SyncSettings,
                 *, distance_ms: float) -> str:
    """Return why frames left without a partner, and the setting that keeps them where one does.

    Args:
        stamps_ns: the stamps of the frames of RGB and THERMAL that decoded, with the offsets; at
            least one of each.
        paired_ns: those of the RGB frames that got a partner.
        sync: the settings of the pairing.
        distance_ms: the typical distance of the stamps.
    """
    left_ns = np.setdiff1d(stamps_ns[RGB], paired_ns)
    rgb_ms, thermal_ms = (_period_ms(stamps_ns[stream]) for stream in (RGB, THERMAL))
    if abs(distance_ms) <= sync.max_distance_ms and len(left_ns) and rgb_ms and thermal_ms:
        slower = thermal_ms / rgb_ms
        hold = f'sync.hold_last_ms {np.ceil(MARGIN * thermal_ms):.0f} keeps'
        known_ns = sorted(stamps_ns[THERMAL])[:_FIRST_FRAMES][-1]
        early = int((left_ns <= known_ns).sum())
        if sync.hold_last_ms < 0 and slower >= BEGIN_RATIO and 2 * early >= len(left_ns):
            until_s = (known_ns - min(stamps_ns[RGB])) / 1e9
            return (f'{early} of rgb came in the first {until_s:.1f} s, before the rate of '
                    f'the slower thermal camera was known; {hold} those after the first thermal '
                    'frame')
        if sync.hold_last_ms <= 0 and slower >= _FASTER:
            return (f'rgb has {1e3 / rgb_ms:.1f} frames a second and thermal '
                    f'{1e3 / thermal_ms:.1f}, so {len(left_ns)} of rgb are left over; {hold} '
                    'them')
    return (f'the thermal stamps are typically {distance_ms:+.1f} ms from the closest one of rgb; '
            f'sync.max_distance_ms is {sync.max_distance_ms:g}')


def _period_ms(stamps_ns: Sequence[int]) -> float:
    """Return the usual time between two frames, 0 where there are too few."""
    gaps_ns = np.diff(np.unique(stamps_ns))
    return float(np.median(gaps_ns)) / 1e6 if len(gaps_ns) else 0.0
