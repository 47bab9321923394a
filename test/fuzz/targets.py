# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: for each input, what may come (a hypothesis strategy) and what must hold of it.

`make fuzz MINUTES=n` tries new cases for n minutes.
"""

import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import yaml
from hypothesis import strategies as st
from safetensors.numpy import save

from diffmf_ros.core.alignment.alignment_file import load_alignment
from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.alignment.geometry import Aligner
from diffmf_ros.core.frames import RGB, THERMAL, DiffmfError, Frame, Pair
from diffmf_ros.core.imaging import compressed
from diffmf_ros.core.imaging.encodings import _FORMATS, decode_message
from diffmf_ros.core.settings import DEFAULTS, iter_specs, with_changes
from diffmf_ros.inference.onnx_engine import KEYS as ONNX_KEYS
from diffmf_ros.inference.onnx_engine import read_header as read_onnx_header
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.inference.weights_header import FORMAT, KEYS, read_header
from diffmf_ros.io.bag_messages import frames, image_message
from diffmf_ros.io.bags import IMAGE, BagReader, BagWriter

_folder = tempfile.TemporaryDirectory(prefix='fuzz-')  # it goes with the process
FOLDER = Path(_folder.name)
_PIPELINE = FusionPipeline(with_changes(DEFAULTS, {'model': 'classical'}))
_random = np.random.default_rng(3)
PICTURE = _random.integers(0, 256, (12, 16, 3), np.uint8)
MOST_PIXELS = 1_000_000  # memory for more would take most of the time
HEAT = _random.integers(7000, 9000, (12, 16), np.uint16)
GOOD = Pair(
    Frame(RGB, 1, 'rgb', PICTURE, 'rgb8', arrival_ns=1),
    Frame(THERMAL, 1, 'thermal', HEAT, 'mono16', arrival_ns=1),
    offset_ns=0,
)
# Numbers that programs get wrong.
NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 2**31 - 1, 2**32 - 1, math.nan, math.inf, -math.inf, 1e308, 1e-308]
    ),
    st.integers(-2, 4096),
    st.floats(),
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw, *wholes: bytes) -> bytes:
    """Draw one of wholes with up to four bytes changed, cut, or with something in between."""
    content = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        if content:
            content[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    cut = draw(st.integers(0, len(content))) if draw(st.integers(0, 3)) == 0 else len(content)
    more = draw(st.binary(max_size=16)) if draw(st.integers(0, 3)) == 0 else b''
    return bytes(content[:cut]) + more


def refused(error: DiffmfError) -> bool:
    """Tell whether an error gives a reason that somebody can read."""
    return len(str(error)) > 15


def _fuse(pixels: np.ndarray, encoding: str, stream: str) -> None:
    """Fuse a frame with a good partner, then a good pair.

    Whatever the first one does, the second is fused.
    """
    frame = Frame(stream, 2, stream, pixels, encoding, arrival_ns=2)
    pair = Pair(frame, GOOD.thermal, 0) if stream == RGB else Pair(GOOD.rgb, frame, 0)
    try:
        _PIPELINE.fuse(pair)
    except DiffmfError as error:
        assert refused(error)
    result = _PIPELINE.fuse(GOOD)
    assert result.pixels.shape == PICTURE.shape and result.mode.value == 'CLASSICAL'


IMAGES = st.builds(
    lambda height, width, encoding, step, big, data: SimpleNamespace(
        height=height, width=width, encoding=encoding, step=step, is_bigendian=big, data=data
    ),
    st.integers(0, 24) | st.sampled_from([2**31, 2**32 - 1]),
    st.integers(0, 24) | st.sampled_from([2**32 - 1]),
    st.sampled_from(sorted(_FORMATS)) | st.text(max_size=8),
    st.integers(0, 200) | st.sampled_from([2**32 - 1]),
    st.booleans(),
    st.binary(max_size=64).map(lambda part: part * 40) | st.binary(max_size=400),
)


def image(message: SimpleNamespace) -> None:
    """Decode an image message: its own size, no more values than it has bytes, or FrameError."""
    pixels, encoding = decode_message(message)
    assert pixels.shape[:2] == (message.height, message.width)
    assert pixels.size <= 3 * len(message.data)
    _fuse(pixels, encoding, RGB if pixels.ndim == 3 else THERMAL)


_PNG = cv2.imencode('.png', PICTURE)[1].tobytes()
COMPRESSED = st.tuples(
    damaged(
        _PNG,
        cv2.imencode('.png', HEAT)[1].tobytes(),
        cv2.imencode('.jpg', PICTURE)[1].tobytes(),
        _PNG[:16] + (30_000).to_bytes(4, 'big') * 2 + _PNG[24:],
    ),
    st.sampled_from(
        [
            '',
            'jpeg',
            'png',
            'rgb8; jpeg compressed bgr8',
            '16UC1; png compressed ',
            'bayer_rggb8; png',
            '16UC1; compressedDepth png',
        ]
    )
    | st.text(max_size=8),
)


def compressed_image(given: tuple[bytes, str]) -> None:
    """Decode a compressed image; what its header promises is bounded."""
    pixels, encoding = compressed.decode(*given, max_pixels=MOST_PIXELS)
    assert pixels.size <= 4 * MOST_PIXELS
    if pixels.size < 10_000:
        _fuse(pixels, encoding, RGB if pixels.ndim == 3 else THERMAL)


def _numbers(count: int) -> st.SearchStrategy:
    plain = [100.0, 0.0, 8.0, 0.0, 100.0, 6.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0][:count]
    return st.just(plain) | st.lists(NUMBERS.map(float), min_size=count, max_size=count)


CAMERA_INFOS = st.builds(
    lambda width, height, model, d, k, r, p, binning, roi: SimpleNamespace(
        width=width,
        height=height,
        distortion_model=model,
        d=d,
        k=k,
        r=r,
        p=p,
        binning_x=binning[0],
        binning_y=binning[1],
        header=SimpleNamespace(frame_id='a'),
        roi=SimpleNamespace(
            x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3], do_rectify=False
        ),
    ),
    st.sampled_from([0, 1, 16, 64, 2**32 - 1]),
    st.sampled_from([0, 1, 12, 48, 2**32 - 1]),
    st.sampled_from(['', 'plumb_bob', 'rational_polynomial', 'equidistant']) | st.text(max_size=6),
    st.lists(NUMBERS.map(float), max_size=14),
    _numbers(9),
    _numbers(9),
    _numbers(12),
    st.tuples(*[st.integers(0, 4)] * 2),
    st.tuples(*[st.integers(0, 64)] * 4),
)


def camera_info(message: SimpleNamespace) -> None:
    """Read a camera info, and map images of its camera."""
    camera = CameraModel.from_info(message)
    aligner = Aligner(DEFAULTS.alignment)
    aligner.set_camera(RGB, camera)
    aligner.set_camera(THERMAL, camera)
    aligner.mapping(rgb_size=(16, 12), thermal_size=(16, 12))


RANGES = NUMBERS.map(float)


def range_reading(depth_m: float) -> None:
    """Take a distance and map images."""
    aligner = Aligner(DEFAULTS.alignment)
    aligner.set_depth_m(depth_m)
    aligner.mapping(rgb_size=(16, 12), thermal_size=(16, 12))


PARAMETERS = st.dictionaries(
    st.sampled_from([item.name for item in iter_specs(DEFAULTS)]) | st.text(max_size=8),
    ANYTHING,
    max_size=3,
)


def parameters(changes: dict) -> None:
    """Change settings, and fuse with them unless they need files or a network."""
    settings = with_changes(DEFAULTS, changes)
    assert (
        with_changes(DEFAULTS, {item.name: item.value for item in iter_specs(settings)})
        == settings
    )


_HOMOGRAPHY = {
    'rgb_from_thermal': [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]],
    'rgb_size': [16, 12],
    'thermal_size': [8, 6],
}
_MOUNTING = {
    'thermal_from_rgb': {'rotation': [1, 0, 0, 0, 1, 0, 0, 0, 1], 'translation_m': [-0.05, 0, 0]},
    'rgb_camera': {'size': [16, 12], 'k': [20, 0, 8, 0, 20, 6, 0, 0, 1], 'd': [0.1, 0, 0, 0]},
}


@st.composite
def _alignments(draw) -> bytes:
    content = dict(draw(st.sampled_from([_HOMOGRAPHY, _MOUNTING])))
    for key in draw(st.lists(st.sampled_from(sorted(content)), max_size=2)):
        content[key] = draw(
            ANYTHING | st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=3, max_size=3)
        )
    return yaml.safe_dump(content, allow_unicode=True).encode('utf-8', 'replace')


ALIGNMENTS = st.one_of(
    _alignments(),
    damaged(yaml.safe_dump(_HOMOGRAPHY).encode(), yaml.safe_dump(_MOUNTING).encode()),
    st.binary(max_size=64),
)


def alignment_file(content: bytes) -> None:
    """Read an alignment file, and map images with it."""
    path = FOLDER / 'alignment.yaml'
    path.write_bytes(content)
    load_alignment(path)
    aligner = Aligner(with_changes(DEFAULTS, {'alignment.file': str(path)}).alignment)
    aligner.mapping(rgb_size=(16, 12), thermal_size=(8, 6))


_ENTRIES = dict.fromkeys(KEYS, '1') | {'format': FORMAT, 'model': 'diffmf', 'preset': 'nano'}
_WEIGHTS = save({'a': np.ones(3, np.float32)}, metadata=_ENTRIES)
WEIGHTS = (
    damaged(_WEIGHTS)
    | st.builds(
        lambda key, value: save({'a': np.ones(3, np.float32)}, metadata=_ENTRIES | {key: value}),
        st.sampled_from(KEYS),
        st.text(max_size=6),
    )
    | st.integers(0, 2**63).map(lambda length: length.to_bytes(8, 'little') + _WEIGHTS[8:])
)


def weights_header(content: bytes) -> None:
    """Read the header of a weights file."""
    path = FOLDER / 'weights.safetensors'
    path.write_bytes(content)
    read_header(path)


ONNX = st.dictionaries(
    st.sampled_from(sorted(ONNX_KEYS)),
    st.text(max_size=5) | st.sampled_from(['1', '4 0 0', '8x8']),
    max_size=9,
).map(lambda given: dict.fromkeys(ONNX_KEYS, '1') | {'sides': '4 0 0', 'size': '8x8'} | given)


def onnx_header(metadata: dict[str, str]) -> None:
    """Read the metadata of an ONNX file of ours."""
    from diffmf_ros.inference.onnx_engine import FORMAT as ONNX_FORMAT

    read_onnx_header(Path('a.onnx'), metadata | {'format': ONNX_FORMAT})


def _bag(storage: str) -> bytes:
    path = FOLDER / storage
    with BagWriter(path, storage) as bag:
        for number in range(3):
            about = {'stamp_ns': number + 1, 'frame_id': 'a'}
            bag.write('/rgb/image_raw', IMAGE, image_message(PICTURE, 'rgb8', **about), number)
            bag.write('/thermal/image_raw', IMAGE, image_message(HEAT, 'mono16', **about), number)
    return next(file for file in path.iterdir() if file.suffix in ('.db3', '.mcap')).read_bytes()


BAGS = st.one_of(
    st.tuples(st.just('.db3'), damaged(_bag('sqlite3'))),
    st.tuples(st.just('.mcap'), damaged(_bag('mcap'))),
)


def bag(given: tuple[str, bytes]) -> None:
    """Read all images of a bag file."""
    path = FOLDER / f'bag{given[0]}'
    path.write_bytes(given[1])
    with BagReader(path) as reader:
        for frame in frames(
            reader, '/rgb/image_raw', '/thermal/image_raw', refused=lambda stream, error: None
        ):
            assert frame.pixels.size <= 10_000


# Name -> (what may come, what must hold, share of the cases).
TARGETS = {
    'Image': (IMAGES, image, 0.2),
    'CompressedImage': (COMPRESSED, compressed_image, 0.2),
    'CameraInfo': (CAMERA_INFOS, camera_info, 0.1),
    'Range': (RANGES, range_reading, 0.05),
    'parameters': (PARAMETERS, parameters, 0.15),
    'alignment files': (ALIGNMENTS, alignment_file, 0.1),
    'safetensors headers': (WEIGHTS, weights_header, 0.1),
    'ONNX headers': (ONNX, onnx_header, 0.05),
    'bags': (BAGS, bag, 0.05),
}
