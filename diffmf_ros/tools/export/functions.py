# SPDX-License-Identifier: Apache-2.0
"""ONNX functions of this project, in ONNX's own text format. An exported file has them inlined."""

import onnx
from onnx import parser

DOMAIN = 'diffmf_ros.tools.export'
OPSET = 18


def parse(text: str) -> onnx.FunctionProto:
    """Return the function that text defines; it may call others of DOMAIN."""
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}, "{DOMAIN}" : 1]>{text}')
