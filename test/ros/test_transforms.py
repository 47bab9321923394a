# SPDX-License-Identifier: Apache-2.0
"""Extrinsics from TF. tf2_ros is C++ and not on a bare machine, so a buffer with its one method
stands in."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.ros.transforms import Transforms, extrinsics_of

K = ((100.0, 0.0, 31.5), (0.0, 100.0, 23.5), (0.0, 0.0, 1.0))
CAMERAS = {RGB: CameraModel((64, 48), K, frame_id='rgb_optical'),
           THERMAL: CameraModel((64, 48), K, frame_id='lwir_optical')}


def transform(rotation=(0.0, 0.0, 0.0, 1.0), translation=(0.1, 0.2, 0.3)):
    """Return an object with the fields of geometry_msgs/Transform."""
    return SimpleNamespace(rotation=SimpleNamespace(**dict(zip('xyzw', rotation))),
                           translation=SimpleNamespace(**dict(zip('xyz', translation))))


class Buffer:
    """Answers as tf2_ros.Buffer does, for one transform; counts what it was asked for."""

    def __init__(self):
        self.asked, self.transform = [], None

    def lookup_transform(self, target, source, time):
        self.asked.append((target, source))
        if self.transform is None:
            raise LookupError('"lwir_optical" passed to lookupTransform does not exist')
        return SimpleNamespace(transform=self.transform)


class Aligner:
    """Remembers the extrinsics that it was given."""

    def __init__(self):
        self.given = []

    def set_extrinsics(self, extrinsics):
        self.given.append(extrinsics)


@pytest.fixture
def buffer():
    return Buffer()


def test_quarter_turn_about_z():
    """A quarter turn about z sends x to y."""
    half = np.sqrt(0.5)

    extrinsics = extrinsics_of(transform((0.0, 0.0, half, half)))

    turned = np.array(extrinsics.rotation) @ (1.0, 0.0, 0.0) + extrinsics.translation_m
    assert np.allclose(turned, (0.1, 1.2, 0.3))


def test_transform_reaches_aligner_once(buffer):
    """The transform from RGB to thermal reaches the aligner once."""
    transforms, aligner = Transforms(None, buffer), Aligner()
    buffer.transform = transform()

    transforms.refresh(CAMERAS, aligner)
    transforms.refresh(CAMERAS, aligner)

    assert buffer.asked == [('lwir_optical', 'rgb_optical')] * 2
    assert [extrinsics.translation_m for extrinsics in aligner.given] == [(0.1, 0.2, 0.3)]
    assert transforms.issue is None


def test_what_is_missing_is_said(buffer):
    transforms, aligner = Transforms(None, buffer), Aligner()

    transforms.refresh({RGB: CAMERAS[RGB]}, aligner)
    assert transforms.issue.text == 'alignment.from_tf waits for thermal/camera_info'

    transforms.refresh(CAMERAS, aligner)
    assert transforms.issue.text.startswith('no transform from rgb_optical to lwir_optical on TF: '
                                           '"lwir_optical"')
    assert aligner.given == []


def test_non_rotation_reported_and_ignored(buffer):
    """A transform that is no rotation is reported and not used."""
    transforms, aligner = Transforms(None, buffer), Aligner()
    buffer.transform = transform((0.0, 0.0, 0.0, 0.0))

    transforms.refresh(CAMERAS, aligner)

    assert 'is not usable' in transforms.issue.text and aligner.given == []


def test_without_tf_nothing_is_missing():
    """Without TF nothing is asked for and nothing missing."""
    transforms, aligner = Transforms(None), Aligner()

    transforms.refresh({}, aligner)

    assert transforms.issue is None and aligner.given == []
