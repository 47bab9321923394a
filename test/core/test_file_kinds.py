# SPDX-License-Identifier: Apache-2.0
"""What lies there in place of the file that was meant.

A pointer, a web page, a checkpoint, an archive.
"""

import io
import os
import pickle
import zipfile

import cv2
import numpy as np
import pytest

from diffmf_ros.core.alignment.alignment_file import load_alignment
from diffmf_ros.core.file_kinds import utf8_name, what_holds, what_is
from diffmf_ros.core.frames import RGB, DiffmfError
from diffmf_ros.inference.onnx_engine import read_sealed
from diffmf_ros.inference.weights_header import read_header
from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import IMAGE, BagError, BagReader, BagWriter
from diffmf_ros.io.images import read_frame

LFS = (b'version https://git-lfs.github.com/spec/v1\n'
       b'oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n'
       b'size 12345\n')
HTML = b'\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n'


def archive(name):
    """Return a zip archive with one file of that name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as file:
        file.writestr(name, b'x')
    return content.getvalue()


KINDS = {
    'LFS pointer': (LFS, 'it is a Git LFS pointer, not the file itself: run `git lfs pull`'),
    'HTML page': (HTML, 'it is an HTML page'),
    'empty': (b'', 'it is empty'),
    'zeros': (bytes(5000), 'it begins with zeros alone'),
    'checkpoint': (archive('archive/data.pkl'), 'it is a checkpoint of PyTorch'),
    'old checkpoint': (pickle.dumps({'model': 1}, protocol=2), 'it is a checkpoint of PyTorch'),
    'zip': (archive('weights.safetensors'), 'it is a zip archive'),
    'gzip': (b'\x1f\x8b\x08\0', 'it is compressed with gzip'),
    'zstd': (b'\x28\xb5\x2f\xfd\0', 'it is compressed with Zstandard'),
    'ROS 1 bag': (b'#ROSBAG V2.0\n', 'it is a bag of ROS 1'),
    'JPEG': (b'\xff\xd8\xff\xe0', 'it is a JPEG image'),
}
READERS = {
    'a.png': lambda path: read_frame(path, stream=RGB),
    'a.safetensors': read_header,
    'a.onnx': read_sealed,
    'a.yaml': load_alignment,
    'a.db3': lambda path: BagReader(path).__enter__(),
    'a.mcap': lambda path: BagReader(path).__enter__(),
}


@pytest.mark.parametrize('content, words', KINDS.values(), ids=KINDS.keys())
def test_contents_are_told_apart(content, words):
    assert what_holds(content[:4096]).startswith(words)


@pytest.mark.parametrize('content', [b'rgb_size: [1, 2]', b'name,loss\n',
                                     b'\x08\x07\x12\x07pytorch', b'{"a": 1}',
                                     b'P5 1 1'])
def test_other_contents_are_not_named(content):
    assert what_holds(content) == ''


def test_utf8_name_of_any_file(tmp_path):
    """The name that libraries are given is UTF-8, its suffix too."""
    path = tmp_path / os.fsdecode(b'w\xfc.safe\xff')
    path.write_bytes(LFS)

    with utf8_name(path) as name:
        assert name.encode().endswith(b'.safe')
        assert what_is(name) == what_is(path)


def test_missing_file_is_not_named(tmp_path):
    """A file that is not there is not named."""
    assert what_is(tmp_path / 'none') == what_is(tmp_path) == ''


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('kind', ['LFS pointer', 'HTML page', 'empty', 'checkpoint', 'zeros'])
def test_readers_name_wrong_kind(tmp_path, name, kind):
    """Every reader says what it got instead."""
    content, words = KINDS[kind]
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DiffmfError) as error:
        READERS[name](tmp_path / name)

    assert name in str(error.value) and words in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('storage, name', [('sqlite3', 'bag.db3'), ('mcap', 'bag.mcap')])
@pytest.mark.parametrize('with_metadata', [True, False])
def test_pointer_storage_is_named(tmp_path, storage, name, with_metadata):
    """A bag whose storage is a pointer says so."""
    with BagWriter(tmp_path / 'bag', storage) as bag:
        bag.write('/a', IMAGE,
                  image_message(np.zeros((2, 2), np.uint8), 'mono8', stamp_ns=0, frame_id=''), 0)
    (tmp_path / 'bag' / name).write_bytes(LFS)
    if not with_metadata:
        (tmp_path / 'bag' / 'metadata.yaml').unlink()

    with pytest.raises(BagError, match=f'{name}: it is a Git LFS pointer'), BagReader(
            tmp_path / 'bag'):
        pass


def test_picture_as_weights_is_named(tmp_path):
    """A picture in place of weights is named."""
    path = tmp_path / 'light.safetensors'
    path.write_bytes(cv2.imencode('.png', np.zeros((20, 20), np.uint8))[1].tobytes())

    with pytest.raises(DiffmfError, match='it is a PNG image; get it again'):
        read_header(path)
