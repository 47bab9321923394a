# SPDX-License-Identifier: Apache-2.0
"""Networks written as ONNX files.

Needs torch, onnx and onnxscript; running the files needs none of them.
"""
