# SPDX-License-Identifier: Apache-2.0
"""SS2D in ONNX operators: all lines of an image at once, then the carry from line to line.

A scan of the whole image would be one step per token. Here a `Scan` walks along the lines (rows or
columns) and handles one token of every line in a step, each line starting from an empty state; a second,
short one walks over the lines and finds the state that enters each of them. The state is linear in
what entered, so y = y of an empty start + (C times the decay since the start of the line) * entered.
Every factor is exp of something negative: nothing overflows, whatever the step sizes.
"""

from itertools import product

import onnx

from .functions import DOMAIN, parse

# One direction. x: T x B x M x D (T tokens in each of M lines); records: T x B x M x (R + 2); w: R x D;
# bias, A: D. delta is softplus(low w + bias), but Softplus alone takes most of onnxruntime's time: it is
# max(0, raw) + log1p(exp(-|raw|)) here, and log1p(e) is log(1 + e) plus what rounding 1 + e lost, which
# keeps small step sizes exact.
LINES = """
NAME (x, records, w, bias, A) => (y)
{
  one = Constant <value = float {1.0}> ()
  first = Constant <value = int64 {0}> ()
  start = Constant <value = int64[1] {0}> ()
  at_b = Constant <value = int64[1] {-2}> ()
  at_c = Constant <value = int64[1] {-1}> ()
  end = Constant <value = int64[1] {2147483647}> ()
  low = Slice (records, start, at_b, at_c)
  b = Slice (records, at_b, at_c, at_c)
  c = Slice (records, at_c, end, at_c)
  state_shape = Shape <start = 1> (x)
  no_state = ConstantOfShape <value = float[1] {0.0}> (state_shape)
  no_decay = ConstantOfShape <value = float[1] {1.0}> (state_shape)
  last, last_decay, y_alone, gain = Scan <
    num_scan_inputs = 4,
    scan_input_directions = [BACKWARDS, BACKWARDS, BACKWARDS, BACKWARDS],
    scan_output_directions = [BACKWARDS, BACKWARDS],
    body = step (float[?, ?, ?] state, float[?, ?, ?] decay, float[?, ?, ?] x_t, float[?, ?, ?] low_t,
                 float[?, ?, ?] b_t, float[?, ?, ?] c_t)
        => (float[?, ?, ?] new_state, float[?, ?, ?] new_decay, float[?, ?, ?] y_t, float[?, ?, ?] gain_t)
    {
      wide = MatMul (low_t, w)
      raw = Add (wide, bias)
      size = Abs (raw)
      negative = Neg (size)
      e = Exp (negative)
      one_e = Add (one, e)
      log = Log (one_e)
      kept = Sub (one_e, one)
      lost = Sub (e, kept)
      log1p = Add (log, lost)
      positive = Relu (raw)
      delta = Add (positive, log1p)
      exponent = Mul (delta, A)
      a = Exp (exponent)
      decayed = Mul (a, state)
      dx = Mul (delta, x_t)
      added = Mul (dx, b_t)
      new_state = Add (decayed, added)
      new_decay = Mul (a, decay)
      y_t = Mul (new_state, c_t)
      gain_t = Mul (new_decay, c_t)
    }
  > (no_state, no_decay, x, low, b, c)
  last_by_line = Transpose <perm = [1, 0, 2]> (last)
  decay_by_line = Transpose <perm = [1, 0, 2]> (last_decay)
  nothing = Gather <axis = 1> (no_state, first)
  final, entering_by_line = Scan <
    num_scan_inputs = 2,
    scan_input_directions = [BACKWARDS, BACKWARDS],
    scan_output_directions = [BACKWARDS],
    body = line (float[?, ?] state, float[?, ?] last_m, float[?, ?] decay_m)
        => (float[?, ?] new_state, float[?, ?] entering_m)
    {
      entering_m = Identity (state)
      carried = Mul (decay_m, state)
      new_state = Add (carried, last_m)
    }
  > (nothing, last_by_line, decay_by_line)
  entering = Transpose <perm = [1, 0, 2]> (entering_by_line)
  through = Mul (gain, entering)
  y = Add (y_alone, through)
}
"""

# As `models.scan.ss2d` with one state. u: B x H x W x D; proj: B x H x W x 4 x (R + 2); w: 4 x R x D;
# bias, A, skip: 4 x D.
SS2D = """
SS2D (u, proj, w, bias, A, skip) => (y)
{
  directions = Constant <value = int64[1] {0}> ()
  skips = ReduceSum <keepdims = 0> (skip, directions)
  skipped = Mul (u, skips)
  rows = Transpose <perm = [2, 0, 1, 3]> (u)
  columns = Transpose <perm = [1, 0, 2, 3]> (u)
  DIRECTIONS
  by_rows = Add (y0, y2)
  by_columns = Add (y1, y3)
  image_by_rows = Transpose <perm = [1, 2, 0, 3]> (by_rows)
  image_by_columns = Transpose <perm = [1, 0, 2, 3]> (by_columns)
  scanned = Add (image_by_rows, image_by_columns)
  y = Add (scanned, skipped)
}
"""


def _direction(k: int, name: str, lines: str) -> str:
    """Return the part of SS2D that scans direction k."""
    perm = {'rows': '[2, 0, 1, 3]', 'columns': '[1, 0, 2, 3]'}[lines]
    return f"""
  k{k} = Constant <value = int64 {{{k}}}> ()
  proj{k} = Gather <axis = 3> (proj, k{k})
  records{k} = Transpose <perm = {perm}> (proj{k})
  w{k} = Gather (w, k{k})
  bias{k} = Gather (bias, k{k})
  A{k} = Gather (A, k{k})
  y{k} = {DOMAIN}.{name} ({lines}, records{k}, w{k}, bias{k}, A{k})
"""


def functions() -> list[onnx.FunctionProto]:
    """Return SS2D, and the functions it calls."""
    names = {'Lines': '0', 'LinesBackwards': '1'}
    directions = [_direction(k, *which) for k, which in enumerate(product(names, ('rows', 'columns')))]
    return [*(parse(LINES.replace('NAME', name).replace('BACKWARDS', flag)) for name, flag in names.items()),
            parse(SS2D.replace('DIRECTIONS', ''.join(directions)))]
