# SPDX-License-Identifier: Apache-2.0
"""Tiny detectors as ONNX files, whose output is known: for tests only."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_constant(path, output, *, size=(64, 64), kind=TensorProto.FLOAT, dims=None):
    """A detector that returns output (without batch axis) for every (width, height) picture."""
    node = helper.make_node(
        'Constant', [], ['output'], value=numpy_helper.from_array(output[None], 'output')
    )
    graph = helper.make_graph(
        [node],
        'constant',
        [helper.make_tensor_value_info('images', kind, dims or [1, 3, size[1], size[0]])],
        [helper.make_tensor_value_info('output', TensorProto.FLOAT, [1, *output.shape])],
    )
    return _write(path, graph)


def write_hot_spot(path, *, size=(64, 64)):
    """A YOLOX of one class: a box in every cell of 8 x 8, as sure as the blue channel is bright.

    The cells of strides 16 and 32 find nothing.
    """
    cells = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in (8, 16, 32)]
    fine = cells[0][0] * cells[0][1]
    fixed = np.zeros((1, sum(width * height for width, height in cells), 4), np.float32)
    fixed[..., :2] = 0.5
    rest = np.zeros((1, fixed.shape[1] - fine, 1), np.float32)
    constants = {
        'fixed': fixed,
        'rest': rest,
        'ones': np.ones((1, fixed.shape[1], 1), np.float32),
        'flat': np.array([1, fine, 1]),
        'most': np.array([1 / 255], np.float32),
        'start': np.array([0]),
        'end': np.array([1]),
        'axis': np.array([1]),
    }
    nodes = [
        helper.make_node('Slice', ['images', 'start', 'end', 'axis'], ['first']),
        helper.make_node(
            'AveragePool', ['first'], ['pooled'], kernel_shape=[8, 8], strides=[8, 8]
        ),
        helper.make_node('Mul', ['pooled', 'most'], ['share']),
        helper.make_node('Reshape', ['share', 'flat'], ['fine']),
        helper.make_node('Concat', ['fine', 'rest'], ['score'], axis=1),
        helper.make_node('Concat', ['fixed', 'score', 'ones'], ['output'], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        'hot_spot',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, size[1], size[0]])],
        [helper.make_tensor_value_info('output', TensorProto.FLOAT, [1, fixed.shape[1], 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _write(path, graph)


def _write(path, graph):
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8), path
    )
    return path
