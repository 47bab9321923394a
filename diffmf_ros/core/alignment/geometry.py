# SPDX-License-Identifier: Apache-2.0
"""Choice of the geometry that brings the two live images onto one grid.

The settings, the camera infos and the mounting decide it together.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ..frames import RGB, THERMAL, Issue
from ..settings import AlignmentSettings
from .alignment_file import RigFile, load_alignment
from .camera import CalibrationError, CameraModel
from .homography import Alignment, AlignmentError
from .rig import Extrinsics, Rig
from .warp import Mapping, Size

__all__ = ['Aligner', 'Alignment', 'AlignmentError', 'Mapping']
# Mappings that are kept: the one in use, and that of another size in a warm-up or a passed-on
# frame.
_KEPT = 2
# Ratio of two shapes of images: of cameras side by side, and of one camera at two sizes.
MOST_STRETCH, MOST_BENT = 1.5, 1.02
_MEANWHILE = 'thermal is resized meanwhile'


class Aligner:
    """Gives the mapping of a pair.

    One thread at a time may set; mapping() may run in another one meanwhile.

    Raises AlignmentError at construction as configure() does.
    """

    def __init__(self, settings: AlignmentSettings):
        self._setup = _Setup(settings, _source(settings))
        self._built = lru_cache(maxsize=_KEPT)(self._build)
        self._rigs = lru_cache(maxsize=_KEPT)(Rig)  # each keeps its rays
        self._mapping_problem = ''
        self._setup.check()

    def configure(self, settings: AlignmentSettings) -> None:
        """Use other settings; a file is read again.

        Args:
            settings: those of the group alignment.

        Raises:
            AlignmentError: they cannot be used; the old ones stay.
        """
        self._set(settings=settings, source=_source(settings))

    def set_camera(self, stream: str, camera: CameraModel | None) -> None:
        """Take the camera info of a stream, which need not fit: see issues.

        Args:
            stream: rgb or thermal.
            camera: its model; None if there is none any more.
        """
        self._setup = replace(self._setup, **{stream: camera})  # type: ignore[arg-type]

    def set_extrinsics(self, extrinsics: Extrinsics | None) -> None:
        """Take the mounting of the cameras from TF.

        Args:
            extrinsics: thermal from RGB; None if it is not known any more.

        Raises:
            AlignmentError: no plane lies in front of both cameras; what was stays.
        """
        self._set(extrinsics=extrinsics)

    def set_depth_m(self, depth_m: float | None) -> None:
        """Move the plane on which both images coincide.

        Args:
            depth_m: its distance from the RGB camera in meters; None for plane_depth_m of the
                settings.

        Raises:
            AlignmentError: the plane is not in front of both cameras; the old depth stays.
        """
        self._set(live_depth_m=depth_m)

    def mapping(self, *, rgb_size: Size, thermal_size: Size, live: bool = True) -> Mapping:
        """Return the mapping for images of these sizes.

        Args:
            rgb_size, thermal_size: (width, height) in pixels.
            live: whether cameras have sent images of these sizes; else nothing that is wrong with
                them is among the issues.

        Returns:
            The mapping, the same object as long as nothing changes.
        """
        mapping = self._built(self._setup, tuple(rgb_size), tuple(thermal_size))
        if live:
            self._mapping_problem = mapping.problem
        return mapping

    def camera(self, stream: str) -> CameraModel | None:
        """Return the calibration in use of a stream.

        Args:
            stream: rgb or thermal.

        Returns:
            Its model; None if there is none.
        """
        return self._setup.camera(stream)

    def measured_size(self, stream: str) -> Size | None:
        """Return the size of the images that alignment.file was measured with.

        Args:
            stream: rgb or thermal.

        Returns:
            (width, height) in pixels; None where it does not say.
        """
        return getattr(self._setup.source, f'{stream}_size', None)

    @property
    def issues(self) -> tuple[Issue, ...]:
        """Issues of the alignment: what differs from what the settings ask for."""
        return tuple(Issue('alignment', text)
                     for text in (self._setup.missing, self._mapping_problem) if text)

    def parallax_px(self, depth_m: float, *, rgb_size: Size, thermal_size: Size,
                    at: tuple[float, float] | None = None) -> tuple[float, float]:
        """Return how far thermal lies beside RGB for a point: see Rig.parallax_px.

        Args:
            depth_m: distance of the point in meters.
            rgb_size, thermal_size: (width, height) of the live images in pixels.
            at: the RGB pixel of the point; None for the center.

        Returns:
            (x, y) in RGB pixels.

        Raises:
            AlignmentError: the mounting is not known.
            CalibrationError: a calibration does not fit.
        """
        setup = self._setup
        if not setup.has_rig:
            raise AlignmentError('the parallax needs the extrinsics and both calibrations: set '
                                 'alignment.file or alignment.from_tf')
        x, y = self._rig(setup, rgb_size, thermal_size).parallax_px(depth_m,
                                                                    plane_depth_m=setup.depth_m,
                                                                    at=at)
        return float(x), float(y)

    def _set(self, **changes: Any) -> None:
        setup = replace(self._setup, **changes)
        setup.check()
        self._setup = setup

    def _build(self, setup: '_Setup', rgb_size: Size, thermal_size: Size) -> Mapping:
        settings = setup.settings
        about = {'rgb_size': rgb_size, 'thermal_size': thermal_size, 'grid': settings.output_grid,
                 'trim_px': (settings.trim_x_px, settings.trim_y_px)}
        if not setup.has_rig:
            homography = Alignment.resize() if isinstance(setup.source, RigFile) else setup.source
            return replace(homography.mapping(**about),  # type: ignore[arg-type]
                           problem=_stretched(homography, rgb_size, thermal_size))
        try:
            return self._rig(setup, rgb_size, thermal_size).mapping(setup.depth_m,
                                                                    grid=settings.output_grid)
        except (AlignmentError, CalibrationError) as error:
            return replace(Alignment.resize().mapping(**about), problem=f'{error}; {_MEANWHILE}')  # type: ignore[arg-type]

    def _rig(self, setup: '_Setup', rgb_size: Size, thermal_size: Size) -> Rig:
        rgb, thermal = (_fitted(stream, setup.camera(stream), size)  # type: ignore[arg-type]
                        for stream, size in ((RGB, rgb_size), (THERMAL, thermal_size)))
        # Thermal shifted by some RGB pixels is the RGB camera with another principal point.
        rgb = rgb.shifted(setup.settings.trim_x_px, setup.settings.trim_y_px)
        return self._rigs(rgb, thermal, setup.mounting.between(rgb.turned, thermal.turned))  # type: ignore[union-attr]


@dataclass(frozen=True)
class _Setup:
    """All that decides a mapping but the sizes."""

    settings: AlignmentSettings
    source: Alignment | RigFile
    rgb: CameraModel | None = None
    thermal: CameraModel | None = None
    extrinsics: Extrinsics | None = None
    live_depth_m: float | None = None

    def camera(self, stream: str) -> CameraModel | None:
        """Calibration in use: of the file, else of the camera info, rectified where it says so."""
        if (of_file := getattr(self.source, stream, None)) is not None:
            return of_file
        of_info = getattr(self, stream)
        return of_info.rectified() if of_info and getattr(self.settings,
                                                          f'{stream}_rectified') else of_info

    @property
    def mounting(self) -> Extrinsics | None:
        return self.extrinsics if self.settings.from_tf else self.source.extrinsics  # type: ignore[union-attr]

    @property
    def depth_m(self) -> float:
        return self.settings.plane_depth_m if self.live_depth_m is None else self.live_depth_m

    @property
    def has_rig(self) -> bool:
        return isinstance(self.source, RigFile) and not self.missing

    @property
    def missing(self) -> str:
        """What the mapping waits for, as a sentence, or ''."""
        if not isinstance(self.source, RigFile):
            return ('alignment.depth_from_range has no effect without extrinsics (alignment.file '
                    'or alignment.from_tf)' if self.settings.depth_from_range else '')
        needed = [f'a calibration on {stream}/camera_info' for stream in (RGB, THERMAL)
                  if self.camera(stream) is None]
        needed += ['TF between the two cameras'] * (self.mounting is None)
        return f'waiting for {" and ".join(needed)}: {_MEANWHILE}' if needed else ''

    def check(self) -> None:
        """Raise AlignmentError for what no pair of cameras can do, as far as it is known."""
        if self.live_depth_m is not None and not 0 < self.live_depth_m < float('inf'):
            raise AlignmentError(f'expected a depth above 0 m, got {self.live_depth_m} m')
        if self.has_rig:
            try:
                rgb, thermal = self.camera(RGB), self.camera(THERMAL)
                mounting = self.mounting.between(rgb.turned, thermal.turned)  # type: ignore[union-attr]
                Rig(rgb, thermal, mounting).require_depth(self.depth_m)  # type: ignore[arg-type]
            except CalibrationError as error:
                raise AlignmentError(str(error)) from error


def _source(settings: AlignmentSettings) -> Alignment | RigFile:
    """What the settings name.

    Raises AlignmentError for a file that is not usable, or beside from_tf contradicts.
    """
    if not settings.file:
        return RigFile() if settings.from_tf else Alignment.resize()
    source = load_alignment(settings.file)
    described = isinstance(source, Alignment) or source.extrinsics is not None
    if described == settings.from_tf:
        raise AlignmentError(
            f'{settings.file} says how the cameras are mounted, and so would TF: empty '
            f'alignment.file, or set '
            'alignment.from_tf to false' if described else
            f'{settings.file} describes cameras, but not how they are mounted: add '
            f'thermal_from_rgb, or set '
            'alignment.from_tf to true')
    return source


def _stretched(alignment: Alignment, rgb_size: Size, thermal_size: Size) -> str:
    """Return what is wrong with the shapes of images that an alignment is used for, or ''."""
    if alignment.rgb_size is None or alignment.thermal_size is None:
        if _shape_ratio(rgb_size, thermal_size) < MOST_STRETCH:
            return ''
        sizes = '{}x{} is stretched to {}x{}'.format(*thermal_size, *rgb_size)
        return f'thermal of {sizes}, as no alignment is known: measure it with `diffmf align`'
    for stream, of_file, size in ((RGB, alignment.rgb_size, rgb_size),
                                  (THERMAL, alignment.thermal_size, thermal_size)):
        if _shape_ratio(of_file, size) > MOST_BENT:
            return ('the alignment is for {} images of {}x{}, and these are {}x{}: measure it '
                    'again with `diffmf align`'.format(stream, *of_file, *size))
    return ''


def _shape_ratio(one: Size, other: Size) -> float:
    """Return by how much wider one size is than the other at equal heights, at least 1."""
    ratio = one[0] * other[1] / (one[1] * other[0])
    return max(ratio, 1 / ratio)


def _fitted(stream: str, camera: CameraModel, size: Size) -> CameraModel:
    try:
        return camera.scaled_to(size)
    except CalibrationError as error:
        raise CalibrationError(f'{stream}: {error}') from error
