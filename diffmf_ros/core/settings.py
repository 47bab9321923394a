# SPDX-License-Identifier: Apache-2.0
"""Every setting of the product, once: default, range, choices and description.

The node declares its parameters from here, `config/fusion.yaml` and docs/parameters.md show them,
and a test compares all of them. Nested groups become dotted names: `sync.max_distance_ms`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .parameter_spec import SettingsError, faults, group, iter_specs, require_order, setting

# a century: one clock may count from 1970, the other from when it was switched on
LONGEST_OFFSET_MS = 4e12
ORIENTATIONS = ('as_sent', 'rotated_90', 'rotated_180', 'rotated_270',
                'mirrored', 'mirrored_90', 'mirrored_180', 'mirrored_270')
_CROP = re.compile(r'([1-9]\d{0,4})x([1-9]\d{0,4})\+(\d{1,5})\+(\d{1,5})')
# Settings, or groups of them, that say something to the live node alone.
LIVE_ONLY = ('autostart', 'adaptive_scale', 'warm_up_size', 'input.rgb_transport',
             'input.thermal_transport', 'qos.', 'realtime.', 'sync.policy',
             'alignment.depth_from_range', 'health.source_timeout_s', 'health.frozen_frames',
             'health.shutter_flag', 'health.compute_timeout_s', 'output.jpeg_quality')
SYNTHETIC = 'synthetic'  # as `weights`: those of the package trained on rendered pictures alone
AUTO_PRESET = {'diffmf': 'nano'}  # docs/quality.md: on a CPU the best of its presets; else light


@dataclass(frozen=True)
class InputSettings:
    """In which form images arrive."""

    rgb_transport: str = setting(
        'raw', 'raw: rgb/image_raw; compressed: rgb/image_raw/compressed',
        choices=('raw', 'compressed'))
    thermal_transport: str = setting(
        'raw', 'raw: thermal/image_raw; compressed: thermal/image_raw/compressed (jpeg, 8- or '
        '16-bit png)',
        choices=('raw', 'compressed'))
    rgb_crop: str = setting(
        '', 'the picture in the RGB images, as WIDTHxHEIGHT+LEFT+TOP in their pixels; empty: all')
    thermal_crop: str = setting(
        '', 'the same of the thermal images; it takes the place of thermal.extra_rows_top and '
        '_bottom')
    rgb_orientation: str = setting(
        'as_sent', 'how the RGB picture is turned after the crop: mirrored left to right, then '
        'clockwise by degrees',
        choices=ORIENTATIONS)
    thermal_orientation: str = setting('as_sent', 'the same of the thermal picture',
                                       choices=ORIENTATIONS)

    def __post_init__(self) -> None:
        for name in ('rgb_crop', 'thermal_crop'):
            if (value := getattr(self, name)) and not _CROP.fullmatch(value):
                raise SettingsError(f'input.{name} must be like 256x192+0+0 (width x height + '
                                    f'left + top), or empty; '
                                    f'got {value!r}')

    def crop_of(self, stream: str) -> tuple[int, int, int, int] | None:
        """Return the picture in the images of a stream.

        Args:
            stream: rgb or thermal.

        Returns:
            (left, top, width, height) in pixels; None for all of the image.
        """
        if not (value := getattr(self, f'{stream}_crop')):
            return None
        width, height, left, top = map(int, _CROP.fullmatch(value).groups())  # type: ignore[union-attr]
        return left, top, width, height

    def orientation_of(self, stream: str) -> str:
        """Return how the images of a stream are turned.

        Args:
            stream: rgb or thermal.

        Returns:
            One of ORIENTATIONS.
        """
        return getattr(self, f'{stream}_orientation')


@dataclass(frozen=True)
class SyncSettings:
    """Which frames belong together."""

    policy: str = setting(
        'closest', 'closest: the closest partner; approximate, exact: those of message_filters, '
        'if installed',
        choices=('closest', 'approximate', 'exact'))
    max_distance_ms: float = setting(
        25.0, 'largest distance of the two stamps of a pair, after the offsets', low=0.0,
        high=1000.0)
    hold_last_ms: float = setting(
        -1.0, 'an RGB frame without a partner takes the last thermal frame, up to this much '
        'older; 0: never; '
        '-1: one period of a thermal camera that is slower than RGB', low=-1.0, high=10_000.0)
    rgb_offset_ms: float = setting(
        0.0, 'added to every RGB stamp before pairing', low=-LONGEST_OFFSET_MS,
        high=LONGEST_OFFSET_MS)
    thermal_offset_ms: float = setting(
        0.0, 'added to every thermal stamp before pairing', low=-LONGEST_OFFSET_MS,
        high=LONGEST_OFFSET_MS)


@dataclass(frozen=True)
class ThermalSettings:
    """How raw thermal values become a 0..1 image."""

    gain_control: str = setting(
        'agc', '16-bit and float thermal: agc follows the percentiles, radiometric and linear are '
        'fixed ranges',
        choices=('agc', 'radiometric', 'linear'))
    low_percentile: float = setting(
        0.5, 'agc: this percentile becomes black', low=0.0, high=50.0)
    high_percentile: float = setting(
        99.5, 'agc: this percentile becomes white', low=50.0, high=100.0)
    max_tail_share: float = setting(
        0.5, 'agc: largest share of the range for the hottest 1 % of the pixels, and for the '
        'coldest; 1: no limit',
        low=0.1, high=1.0)
    min_span_noise: float = setting(
        24.0, 'agc: black and white are at least this many times the measured noise apart; 0: no '
        'limit',
        low=0.0, high=1000.0)
    min_span_k: float = setting(
        0.0, 'agc: black and white are at least this many kelvin apart, by '
        'thermal.radiometric_unit; 0: no limit',
        low=0.0, high=1000.0)
    time_constant_s: float = setting(
        0.5, 'agc: black and white follow the scene this slowly; 0: every frame by itself',
        low=0.0, high=60.0)
    max_change: float = setting(
        0.1, 'agc: largest change of black or white from frame to frame, relative to their '
        'distance',
        low=0.001, high=1.0)
    radiometric_unit: str = setting(
        'unknown', 'what one count is, for radiometric, min_span_k and fused/temperature; custom: '
        'kelvin_per_count and '
        'kelvin_at_zero',
        choices=('unknown', 'centikelvin', 'decikelvin', 'kelvin', 'celsius', 'custom'))
    kelvin_per_count: float = setting(
        0.01, 'radiometric_unit custom: kelvin from one count to the next', low=1e-6, high=1000.0)
    kelvin_at_zero: float = setting(
        0.0, 'radiometric_unit custom: temperature of the count 0 in kelvin', low=-1000.0,
        high=1000.0)
    radiometric_low_k: float = setting(
        263.15, 'radiometric: this temperature in kelvin becomes black', low=0.0, high=3000.0)
    radiometric_high_k: float = setting(
        323.15, 'radiometric: this temperature in kelvin becomes white', low=0.0, high=3000.0)
    linear_low: float = setting(
        0.0, 'linear: this count becomes black', low=-1e9, high=1e9)
    linear_high: float = setting(
        65535.0, 'linear: this count becomes white', low=-1e9, high=1e9)
    polarity: str = setting(
        'white_hot', 'what the camera sends: warm is bright or warm is dark',
        choices=('white_hot', 'black_hot'))
    extra_rows_top: int = setting(
        -1, 'rows above the picture that are none (telemetry) and are cut off; -1: those of the '
        'usual sensors', low=-1,
        high=256)
    extra_rows_bottom: int = setting(-1, 'the same below the picture', low=-1, high=256)
    repair_rows: bool = setting(True, 'replace dead thermal rows by their neighbors')

    def __post_init__(self) -> None:
        require_order('thermal.', self, 'low_percentile', 'high_percentile')
        if (self.extra_rows_top < 0) != (self.extra_rows_bottom < 0):
            raise SettingsError('thermal.extra_rows_top and thermal.extra_rows_bottom must both '
                                'be -1 or both be '
                                f'counts of rows, got {self.extra_rows_top} and '
                                f'{self.extra_rows_bottom}')
        require_order('thermal.', self, 'radiometric_low_k', 'radiometric_high_k')
        require_order('thermal.', self, 'linear_low', 'linear_high')
        if self.radiometric_unit == 'unknown' and (self.gain_control == 'radiometric'
                                                   or self.min_span_k > 0):
            raise SettingsError('thermal.gain_control radiometric and thermal.min_span_k need '
                                'thermal.radiometric_unit: what is one count of the camera?')

    @property
    def scale_k(self) -> tuple[float, float]:
        """Kelvin from one count to the next, and at the count 0; (1, 0) for an unknown unit."""
        custom = self.kelvin_per_count, self.kelvin_at_zero
        return {'unknown': (1.0, 0.0), 'centikelvin': (0.01, 0.0), 'decikelvin': (0.1, 0.0),
                'kelvin': (1.0, 0.0), 'celsius': (1.0, 273.15),
                'custom': custom}[self.radiometric_unit]


@dataclass(frozen=True)
class AlignmentSettings:
    """How the two images come onto one grid."""

    file: str = setting(
        '', 'path of an alignment YAML (homography, or extrinsics of the two cameras); empty: '
        'thermal is resized')
    from_tf: bool = setting(
        False, 'take the extrinsics from TF, between the frame ids of the two camera infos')
    plane_depth_m: float = setting(
        20.0, 'with extrinsics: distance along the optical axis of the RGB camera at which the '
        'images coincide',
        low=0.1, high=100_000.0)
    depth_from_range: bool = setting(
        False, 'with extrinsics: the topic range (sensor_msgs/Range) replaces plane_depth_m')
    rgb_rectified: bool = setting(
        False, 'the RGB images are rectified: of their camera info the projection P holds, and no '
        'lens distortion')
    thermal_rectified: bool = setting(False, 'the same of the thermal images')
    auto_trim: bool = setting(
        True, 'moves thermal by up to a fortieth of the width (16 of 640 pixels) onto the edges '
        'of RGB, measured pair by pair: what a calibration leaves over; a trim set by hand, which '
        'is not 0, holds instead')
    trim_x_px: float = setting(
        0.0, 'shifts thermal to the right by this many pixels of the RGB image', low=-1000.0,
        high=1000.0)
    trim_y_px: float = setting(
        0.0, 'shifts thermal down by this many pixels of the RGB image', low=-1000.0, high=1000.0)
    output_grid: str = setting(
        'rgb', "whose pixels the fused image has; its header is that camera's",
        choices=('rgb', 'thermal'))


@dataclass(frozen=True)
class HealthSettings:
    """When a camera counts as failed."""

    source_timeout_s: float = setting(
        1.0, 'a camera silent for longer is lost: the other one is passed on alone', low=0.05,
        high=60.0)
    frozen_frames: int = setting(
        3, 'so many equal images in a row with advancing stamps are a frozen camera (shutter); 0: '
        'never',
        low=0, high=1000)
    shutter_flag: bool = setting(
        False, 'listen to thermal/shutter (std_msgs/Bool): true while the thermal shutter is '
        'closed')
    compute_timeout_s: float = setting(
        2.0, 'a network that takes longer for a pair than this and five usual times counts as '
        'hung',
        low=0.1, high=600.0)
    detect_blind: bool = setting(
        True, 'pass the other camera on when thermal is flat or RGB black or white; let thermal '
        'through where RGB is veiled; warn of veiled or dark RGB and of hidden warm targets')


@dataclass(frozen=True)
class OutputSettings:
    """What the fused image looks like."""

    color: str = setting(
        'keep_chroma', 'keep_chroma: color of the RGB image, less where it is dark and noisy; '
        'raw_chroma: all of it; gray: mono8; else a palette over the fused luminance',
        choices=('keep_chroma', 'raw_chroma', 'gray', 'inferno', 'magma', 'plasma', 'viridis',
                 'turbo', 'jet', 'hot', 'bone'))
    frame_id: str = setting(
        '', 'frame id of the fused images; empty: that of the camera whose grid they have')
    temporal_filter: float = setting(
        0.8, 'share of the average of the images before it in a fused image, where nothing '
        'moves: less noise; 0: each image for itself', low=0.0, high=0.9)
    warm_contrast: bool = setting(
        True, 'give warm objects of the size of people the contrast that the better camera has, '
        'and the rest of the image the detail that one camera has where the other is flat; '
        'soften visible detail around upright ones')
    jpeg_quality: int = setting(90, 'of fused/image/compressed', low=1, high=100)


@dataclass(frozen=True)
class QosSettings:
    """How images travel."""

    reliability: str = setting(
        'auto', 'of the subscriptions; auto: reliable when every publisher of the topic offers it',
        choices=('auto', 'reliable', 'best_effort'))
    depth: int = setting(1, 'keep-last depth of the subscriptions', low=1, high=10)


@dataclass(frozen=True)
class RealtimeSettings:
    """Before whom the node runs, where the system permits it."""

    thread_priority: int = setting(
        0, 'of SCHED_FIFO, for all threads of the node; 0: scheduled as it was started',
        low=0, high=99)
    cpu_affinity: str = setting(
        '', 'numbers of the CPUs that the node may use, such as 2,3; empty: as it was started')
    lock_memory: bool = setting(False, 'never page out what the node has in memory')

    def __post_init__(self) -> None:
        if self.cpu_affinity and not re.fullmatch(r'\d{1,4}(,\d{1,4})*', self.cpu_affinity):
            raise SettingsError('realtime.cpu_affinity must be numbers of CPUs such as 2,3, or '
                                f'empty; got {self.cpu_affinity!r}')


@dataclass(frozen=True)
class Settings:
    """Everything a user can set. Frozen: a change makes a new, validated one."""

    model: str = setting(
        'diffmf', 'what fuses: a network, or the weight-free classical method',
        choices=('diffmf', 's4fusion', 'refinefuse', 'classical'))
    preset: str = setting(
        'auto', 'size of the network; auto: nano for diffmf, light for s4fusion and refinefuse, '
        'which also have base',
        choices=('auto', 'light', 'base', 'light-s4', 'nano'))
    weights: str = setting('', 'path of a .safetensors file; empty: the shipped weights of the '
                           'preset; synthetic: those trained on rendered pictures alone')
    engine: str = setting(
        'torch', 'what runs the network; onnx: onnxruntime, with weights naming a file of `diffmf '
        'export`',
        choices=('torch', 'onnx'))
    device: str = setting('auto', 'auto: cuda when there is one, else cpu',
                          choices=('auto', 'cpu', 'cuda'))
    precision: str = setting(
        'auto', 'auto: float16 on cuda, bfloat16 on a CPU that multiplies it natively, else '
        'float32',
        choices=('auto', 'float32', 'float16', 'bfloat16'))
    scale: float = setting(
        1.0, 'working size of the network relative to the RGB image; below 1 is faster and softer',
        low=0.125, high=1.0)
    adaptive_scale: bool = setting(
        False, 'lower the working size while fusing takes longer than the time between pairs, '
        'raise it again after')
    max_pixels: int = setting(
        9_000_000, 'an image with more pixels is refused', low=1, high=1_000_000_000)
    scan_backend: str = setting(
        'auto', 'selective-scan implementation',
        choices=('auto', 'triton', 'mamba_ssm', 'cpu', 'portable', 'reference'))
    threads: int = setting(0, 'CPU threads of the network; 0: one per core', low=0, high=256)
    warm_up_size: str = setting(
        '640x480', 'width x height of the RGB image to prepare for before the first frame; empty: '
        'none')
    autostart: bool = setting(True, 'configure and activate the node by itself')
    input: InputSettings = group(InputSettings)
    sync: SyncSettings = group(SyncSettings)
    thermal: ThermalSettings = group(ThermalSettings)
    alignment: AlignmentSettings = group(AlignmentSettings)
    health: HealthSettings = group(HealthSettings)
    output: OutputSettings = group(OutputSettings)
    qos: QosSettings = group(QosSettings)
    realtime: RealtimeSettings = group(RealtimeSettings)

    def __post_init__(self) -> None:
        for item in iter_specs(self):
            item.check(item.value)
        if self.warm_up_size and not re.fullmatch(r'[1-9]\d{0,4}x[1-9]\d{0,4}', self.warm_up_size):
            raise SettingsError(f'warm_up_size must be like 640x480, or empty; got '
                                f'{self.warm_up_size!r}')

    @property
    def network_preset(self) -> str:
        """The preset of the network, with auto resolved for the model."""
        return AUTO_PRESET.get(self.model, 'light') if self.preset == 'auto' else self.preset

    @property
    def weights_file(self) -> str:
        """Path of the weights file that is named; empty for weights of the package."""
        return '' if self.weights == SYNTHETIC else self.weights

    @property
    def warm_up(self) -> tuple[int, int] | None:
        """(width, height) of warm_up_size, or None."""
        width, _, height = self.warm_up_size.partition('x')
        return (int(width), int(height)) if height else None


def with_changes(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with some replaced, all or nothing.

    Args:
        settings: the old ones.
        changes: new values by dotted name; an int is accepted where a float is expected.

    Returns:
        The new settings.

    Raises:
        SettingsError: names are unknown, types are wrong, or values are out of range; it names
            all of them, and of an unknown name the nearest known one.
    """
    known = {item.name: item for item in iter_specs(settings)}
    changes = {name: float(value) if type(value) is int and name in known
               and type(known[name].value) is float else value for name, value in changes.items()}
    if wrong := list(faults(changes, known)):
        raise SettingsError('; '.join(wrong))
    groups: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        prefix, _, leaf = name.rpartition('.')
        groups.setdefault(prefix, {})[leaf] = value
    top = groups.pop('', {})
    nested = {prefix: replace(getattr(settings, prefix), **leaves)
              for prefix, leaves in groups.items()}
    return replace(settings, **top, **nested)


DEFAULTS = Settings()
