# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the homography of `diffmf align`, beside OpenCV's features and ECC.

python benchmarks/align.py DATA [--cases 40] [--seed 0]
python benchmarks/align.py --turned
python benchmarks/align.py --offset BAG ...

DATA holds registered pairs (folders vi and ir somewhere below). From every drawn pair two cameras
are made up: RGB of 640x480 and thermal of 320x256 with a field of view 0.6 to 1.6 times as wide,
turned by up to 10 degrees, shifted by up to 15 % of the width, with some perspective. `real`:
visible and infrared, as well registered as the data are. `inverted`: thermal is the visible image,
inverted, bent and noisy, so that the truth is exact. `drive`: the synthetic drive, whose
homography is exact for 18 m. --turned: five pairs of a drive, made to fit exactly, with fields of
view 0.35, 2 and 2.8 times as wide, in any roll, each by itself. --offset: the time offset of
drives of `diffmf sample-bag`, straight ahead as they are, and with the cameras turned by 2 degrees
to and fro, with the stamps of thermal shifted, from the true alignment. Errors are those of the
four corners of the smaller field of view, in pixels of the RGB image (RMS); a share is one of all
cases, the median one of the results that were not refused.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

import cv2
import numpy as np

from diffmf_ros.core.alignment.homography import Alignment, resampling
from diffmf_ros.core.alignment.warp import translation
from diffmf_ros.core.imaging.color import split_luma
from diffmf_ros.core.registration.planar import transform_points
from diffmf_ros.core.registration.registration import RegistrationError, register
from diffmf_ros.core.registration.time_offset import estimate_offset
from diffmf_ros.core.settings import Settings
from diffmf_ros.io.folders import pair_files
from diffmf_ros.tools.alignment_pairs import bag_clips
from diffmf_ros.tools.synthetic.cameras import Camera, make_rig
from diffmf_ros.tools.synthetic.drive import Drive, DriveSettings
from diffmf_ros.tools.synthetic.record import aligned_pair, recorded_drive

RGB_SIZE, THERMAL_SIZE = (640, 480), (320, 256)
GOOD_PX, FAIR_PX, WRONG_PX = 5.0, 10.0, 20.0
POOLED = 5
DRIVE_FRAMES = (10, 40, 70, 100, 130)
SHIFTS_MS = (40, -60, 90, -35, -90, 20, 60)
TURNED_RATIOS, TURNED_DEG = (0.35, 2.0, 2.8), (37.0, 90.0, -150.0)

Images = tuple[np.ndarray, np.ndarray]  # RGB luminance and thermal, H x W uint8
Clip = list[tuple[float, np.ndarray]]  # stamp in seconds since the start, and image


@dataclass(frozen=True)
class Case:
    """Pairs that one rig took, and its rgb_from_thermal."""

    pairs: list[Images]
    truth: np.ndarray


def random_homography(random: np.random.Generator) -> np.ndarray:
    """rgb_from_thermal of a made-up rig."""
    ratio, angle = np.exp(random.uniform(np.log(0.6),
                                         np.log(1.6))), np.radians(random.uniform(-10, 10))
    shift = random.uniform(-0.15, 0.15, 2) * RGB_SIZE[0]
    bend = random.uniform(-0.04, 0.04, 2) / (np.array(THERMAL_SIZE) / 2)
    return rig_homography(ratio, angle, shift, bend)


def rig_homography(ratio: float, angle: float, shift: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """rgb_from_thermal of a rig.

    ratio is that of the fields of view, angle in radians, shift in RGB pixels, bend its last row.
    """
    scale, core = ratio * RGB_SIZE[0] / THERMAL_SIZE[0], np.eye(3)
    core[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)],
                                     [np.sin(angle), np.cos(angle)]])
    core[2, :2] = bend
    moved = np.eye(3)
    moved[:2, 2] = (np.array(RGB_SIZE) - 1) / 2 + shift
    centered = np.eye(3)
    centered[:2, 2] = -(np.array(THERMAL_SIZE) - 1) / 2
    matrix = moved @ core @ centered
    return matrix / matrix[2, 2]


def views(visible: np.ndarray, infrared: np.ndarray, truth: np.ndarray) -> Images:
    """Return what two cameras of a rig see of a registered pair: as much of it as fits both."""
    reach = np.vstack((transform_points(truth, corners(THERMAL_SIZE)), corners(RGB_SIZE)))
    low, high = reach.min(axis=0), reach.max(axis=0)
    size = np.array(visible.shape[::-1])
    zoom = float((size / (high - low)).min())
    source_from_rgb = np.diag([zoom, zoom, 1.0])
    source_from_rgb[:2, 2] = (size - 1) / 2 - zoom * (low + high) / 2
    both = []
    for image, matrix, target in ((visible, source_from_rgb, RGB_SIZE),
                                  (infrared, source_from_rgb @ truth, THERMAL_SIZE)):
        coarser = abs(np.linalg.det(matrix[:2, :2])) ** 0.5
        image = cv2.GaussianBlur(image, (0, 0), 0.4 * coarser) if coarser > 1 else image
        both.append(cv2.warpPerspective(image, matrix, target,
                                        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                                        borderMode=cv2.BORDER_REFLECT_101))
    return both[0], both[1]


def corners(size: tuple[int, int]) -> np.ndarray:
    """Return the corners of an image of this size, 4 x 2."""
    return np.array([(x, y) for x in (0, size[0] - 1) for y in (0, size[1] - 1)], float)


def corner_error_px(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the RMS distance of the corners of the smaller field of view."""
    points = corners(THERMAL_SIZE)
    if np.prod(np.ptp(transform_points(truth, points), axis=0)) > np.prod(RGB_SIZE):
        points = transform_points(np.linalg.inv(truth), corners(RGB_SIZE))
    return float(np.sqrt(np.square(transform_points(found, points)
                                   - transform_points(truth, points)).sum(axis=1).mean()))


def inverted(visible: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A stand-in for infrared that is registered exactly."""
    bent = 255 * (1 - visible / 255) ** 2 + random.normal(0, 4, visible.shape)
    return np.clip(bent, 0, 255).astype(np.uint8)


def drawn_cases(data: Path, *, pooled: int, count: int, seed: int,
                exact: bool = False) -> list[Case]:
    """Cases of `pooled` pairs of one data set each, the data sets in turn.

    Exact: infrared is inverted().
    """
    sets: dict[Path, list[tuple[Path, Path]]] = {}
    for files in pair_files(data):
        sets.setdefault(files[0].parent.parent, []).append(files)
    usable = [files for _, files in sorted(sets.items()) if len(files) >= pooled]
    random, cases = np.random.default_rng(seed), []
    for index in range(count if usable else 0):
        files, truth = usable[index % len(usable)], random_homography(random)
        chosen = [files[k] for k in random.choice(len(files), pooled, replace=False)]
        images = [tuple(cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), RGB_SIZE)
                        for file in pair)
                  for pair in chosen]
        if exact:
            images = [(visible, inverted(visible, random)) for visible, _ in images]
        cases.append(Case([views(*pair, truth) for pair in images], truth))
    return cases


def drive_cases(*, pooled: int) -> list[Case]:
    """Every frame by itself, or all of a drive together."""
    cases = []
    for scene in ('night', 'smoke'):
        for seed in range(3):
            drive = Drive(DriveSettings(scene=scene, seed=seed, seconds=6, thermal_rate_hz=30))
            pairs = [(split_luma(drive.frame('rgb', index).frame.pixels, 'rgb8')[0],
                      drive.frame('thermal', index).frame.pixels) for index in DRIVE_FRAMES]
            cases += [Case(pairs[k:k + pooled], drive.rig.rgb_from_thermal())
                      for k in range(0, len(pairs), pooled)]
    return cases


def turned_cases() -> Iterator[tuple[str, Case]]:
    """Yield the name and the pairs of rigs with unlike lenses, in any roll, before a drive."""
    for ratio, angle_deg, scene in product(TURNED_RATIOS, TURNED_DEG, ('night', 'day')):
        drive = Drive(DriveSettings(scene=scene, seed=1, seconds=6, thermal_rate_hz=30))
        truth = rig_homography(ratio, np.radians(angle_deg), np.zeros(2), np.zeros(2))
        pairs = [aligned_pair(drive, index, index) for index in DRIVE_FRAMES]
        yield f'{ratio:g}, {angle_deg:g} degrees, {scene}', Case(
            [views(split_luma(rgb, 'rgb8')[0], thermal, truth) for rgb, thermal in pairs], truth)


def print_turned() -> None:
    """Print a line for every rig."""
    print('| field ratio, roll, scene | error px | s |\n|---|---|---|')
    for name, case in turned_cases():
        begin = time.perf_counter()
        found = ours(case)
        error = 'refused' if found is None else f'{corner_error_px(found, case.truth):.1f}'
        print(f'| {name} | {error} | {time.perf_counter() - begin:.1f} |', flush=True)


def turned_clip(clip: Clip, camera: Camera, *, start_s: float, edge_px: int) -> Clip:
    """The clip of a camera whose rig is turned to and fro from start_s, without edges."""
    frames = []
    for stamp_s, image in clip:
        true_s = stamp_s - start_s - 1e-3 * camera.stamp_delay_ms
        yaw = np.radians(1.5 * np.sin(0.8 * np.pi * true_s)
                         + 0.5 * np.sin(1.8 * np.pi * true_s + 1))
        turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
        to_pixels = camera.k @ camera.rotation
        view = cv2.warpPerspective(image, to_pixels @ turn @ np.linalg.inv(to_pixels),
                                   (camera.width, camera.height), flags=cv2.INTER_CUBIC,
                                   borderMode=cv2.BORDER_REPLICATE)
        frames.append((stamp_s, view[edge_px:-edge_px, edge_px:-edge_px]))
    return frames


def print_offsets(bags: list[Path]) -> None:
    """Print the errors of the time offset of recorded drives."""
    print('| drive | cameras | shift, ms | error, ms | uncertain, ms |\n|---|---|---|---|---|')
    rig, edges = make_rig(), {'rgb': 40, 'thermal': 20}
    for bag, shift_ms in zip(bags, cycle(SHIFTS_MS)):
        known, (*clips, cameras) = recorded_drive(bag), bag_clips(
            bag, Settings(), topics=('/rgb/image_raw', '/thermal/image_raw'))
        if cameras is None:
            raise SystemExit(f'{bag}: expected camera infos of both cameras that fit its images, '
                             'got none; make it with diffmf sample-bag')
        matrix = (translation(*[-edges['rgb']] * 2) @ rig.rgb_from_thermal()
                  @ translation(*[edges['thermal']] * 2))
        cut = Alignment(tuple(map(tuple, (matrix / matrix[2, 2]).tolist())), *(
            (camera.width - 2 * edges[name], camera.height - 2 * edges[name])
            for name, camera in (('rgb', rig.rgb), ('thermal', rig.thermal))))
        start_s = clips[0][0][0]
        turned = [turned_clip(clip, getattr(rig, name), start_s=start_s, edge_px=edges[name])
                  for name, clip in zip(edges, clips, strict=True)]
        inner = tuple(camera.cropped(edge, edge, camera.size[0] - 2 * edge,
                                     camera.size[1] - 2 * edge)
                      for camera, edge in zip(cameras, edges.values(), strict=True))
        for motion, (rgb, thermal), alignment, calibrated in (
                ('turned', turned, cut, inner),
                ('ahead', clips, Alignment.load(known.alignment), cameras)):
            late = [(stamp_s + 1e-3 * shift_ms, image) for stamp_s, image in thermal]
            try:
                found = estimate_offset(rgb, late, alignment, cameras=calibrated)
                said = (f'{found.offset_ms - known.thermal_offset_ms + shift_ms:+.1f} | '
                        f'{found.uncertainty_ms:.1f}')
            except RegistrationError as error:
                said = f'refused | {error}'
            print(f'| {bag.name} | {motion} | {shift_ms:+d} | {said} |', flush=True)


def resize(case: Case) -> np.ndarray:
    """No measurement at all."""
    return resampling(THERMAL_SIZE, RGB_SIZE)


def ours(case: Case) -> np.ndarray | None:
    """diffmf align; None: refused."""
    try:
        return np.array(register(case.pairs).alignment.rgb_from_thermal)
    except RegistrationError:
        return None


def ours_from_truth(case: Case) -> np.ndarray | None:
    """diffmf align started at the truth.

    What remains is what thermal and RGB of the data disagree about.
    """
    try:
        start = Alignment(tuple(map(tuple, case.truth.tolist())), RGB_SIZE, THERMAL_SIZE)
        return np.array(register(case.pairs, start=start).alignment.rgb_from_thermal)
    except RegistrationError:
        return None


def features(detector: Callable, norm: int, *,
             ratio: float = 0.8) -> Callable[[Case], np.ndarray | None]:
    """Key points, ratio test, MAGSAC, with thermal enlarged to the scale of RGB, all pairs pooled.
    """
    def measure(case: Case) -> np.ndarray | None:
        enlarged = resampling(THERMAL_SIZE, RGB_SIZE)
        source, target = [], []
        for rgb, thermal in case.pairs:
            (a, one), (b, other) = (detector().detectAndCompute(image, None)
                                    for image in (cv2.resize(thermal, RGB_SIZE), rgb))
            if one is None or other is None or len(b) < 2:
                continue
            for best in cv2.BFMatcher(norm).knnMatch(one, other, k=2):
                if best[0].distance < ratio * best[1].distance:
                    source.append(a[best[0].queryIdx].pt)
                    target.append(b[best[0].trainIdx].pt)
        if len(source) < 8:
            return None
        matrix, _ = cv2.findHomography(np.array(source), np.array(target), cv2.USAC_MAGSAC, 3.0,
                                       maxIters=10_000, confidence=0.999)
        return None if matrix is None else matrix @ enlarged
    return measure


def ecc(prepare: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case], np.ndarray | None]:
    """findTransformECC from plain resizing, affine and then a homography, on the first pair."""
    def measure(case: Case) -> np.ndarray | None:
        rgb, thermal = (prepare(cv2.resize(image, RGB_SIZE)) for image in case.pairs[0])
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
        try:
            _, affine = cv2.findTransformECC(rgb, thermal, np.eye(2, 3, dtype=np.float32),
                                             cv2.MOTION_AFFINE,
                                             criteria, None, 5)
            start = np.vstack((affine, [0, 0, 1])).astype(np.float32)
            _, matrix = cv2.findTransformECC(rgb, thermal, start, cv2.MOTION_HOMOGRAPHY, criteria,
                                             None, 5)
        except cv2.error:  # it does not converge
            return None
        return np.linalg.inv(matrix.astype(float)) @ resampling(THERMAL_SIZE, RGB_SIZE)
    return measure


def gradient(image: np.ndarray) -> np.ndarray:
    """Gradient magnitude, H x W float32."""
    smooth = cv2.GaussianBlur(image, (0, 0), 2.0).astype(np.float32)
    return cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))


METHODS: dict[str, Callable[[Case], np.ndarray | None]] = {
    'resize': resize,
    'SIFT, ratio test, MAGSAC': features(lambda: cv2.SIFT_create(4000), cv2.NORM_L2),
    'ORB, ratio test, MAGSAC': features(lambda: cv2.ORB_create(4000), cv2.NORM_HAMMING),
    'ECC of the images': ecc(lambda image: image),
    'ECC of gradient magnitude': ecc(gradient),
    'diffmf align': ours,
    '(diffmf align from the truth)': ours_from_truth,
}


def row(name: str, method: Callable[[Case], np.ndarray | None], cases: list[Case]) -> str:
    """A line of the table."""
    errors, seconds = [], []
    for case in cases:
        begin = time.perf_counter()
        found = method(case)
        seconds.append(time.perf_counter() - begin)
        errors.append(np.nan if found is None else corner_error_px(found, case.truth))
    errors = np.array(errors)
    given = errors[~np.isnan(errors)]
    middle = f'{np.median(given):.1f}' if len(given) else '-'
    return (f'| {name} | {np.mean(errors < GOOD_PX):.0%} | {np.mean(errors < FAIR_PX):.0%} | '
            f'{middle} | ' f'{np.mean(np.isnan(errors)):.0%} | {np.mean(errors > WRONG_PX):.0%} | '
            f'{np.median(seconds):.2f} |')


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('data', type=Path, nargs='?')
    parser.add_argument('--turned', action='store_true', help='unlike lenses in any roll alone')
    parser.add_argument('--offset', type=Path, nargs='+', metavar='BAG',
                        help='the time offset of drives of diffmf sample-bag alone')
    parser.add_argument('--cases', type=int, default=40)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.turned:
        print_turned()
        return
    if options.offset:
        print_offsets(options.offset)
        return
    if options.data is None:
        parser.error('expected DATA, --turned or --offset')
    drawn = {'count': options.cases, 'seed': options.seed}
    groups = {f'{what}, {count} pair{"s"[:count > 1]}': cases for count in (1, POOLED) for what,
              cases in (
        ('real', drawn_cases(options.data, pooled=count, **drawn)),
        ('inverted', drawn_cases(options.data, pooled=count, exact=True, **drawn)),
        ('drive', drive_cases(pooled=count)))}
    print(f'| method | < {GOOD_PX:g} px | < {FAIR_PX:g} px | median px | refused | > {WRONG_PX:g} '
          f'px | s |')
    print('|---' * 7 + '|')
    for group, cases in groups.items():
        print(f'| **{group}, {len(cases)} cases** |' + ' |' * 6)
        for name, method in METHODS.items():
            print(row(name, method, cases), flush=True)


if __name__ == '__main__':
    main()
