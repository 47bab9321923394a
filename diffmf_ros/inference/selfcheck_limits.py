# SPDX-License-Identifier: Apache-2.0
"""How far a sound scan may be from the exact result, by the arithmetic that it may use.

A result y is a sum of terms, each a product of an activation, its step size, B, C and decays.
Rounding a factor changes a term by a share of it, so an error is at most that share of the sum of
the terms' absolute values, which is what the scan makes of absolute inputs
(`golden.Case.magnitude`). The shares:

* half precision: each factor may have been rounded to the activations' type, or be truncated to
  TF32 for a matrix product, which loses at most 2 ** -10, twice the unit roundoff of float16. SSD
  truncates two factors of a term on a tensor core, and other backends round up to six.
* every precision: products, exponentials and sums in float32. A term goes through one decay a
  step, each right to four units in the last place; softplus and the products around it to 64 in
  all.
* the result itself is rounded to the activations' type once more.

A wrong token is off by its own size, which is far more than these shares of it.
"""

import torch

UNIT_ROUNDOFF = {torch.float32: 2.0 ** -24, torch.float16: 2.0 ** -11, torch.bfloat16: 2.0 ** -8}
ROUNDED_FACTORS = 6
FLOAT32_ULPS_A_STEP, FLOAT32_ULPS = 4, 64


def allowed_errors(expected: torch.Tensor, magnitude: torch.Tensor, *, steps: int,
                   dtype: torch.dtype) -> torch.Tensor:
    """Return the largest error of each value of expected that rounding can explain.

    Args:
        expected: The exact result.
        magnitude: Sum of the absolute values of the terms of each, of the same shape.
        steps: Length of the sequence.
        dtype: Of the activations: float32, float16 or bfloat16.

    Returns:
        float64 of the shape of expected.
    """
    unit = UNIT_ROUNDOFF[dtype]
    share = (FLOAT32_ULPS_A_STEP * steps + FLOAT32_ULPS) * UNIT_ROUNDOFF[torch.float32]
    if dtype != torch.float32:
        share += ROUNDED_FACTORS * unit
    smallest = torch.finfo(dtype).smallest_normal * unit  # of what lies below the normal numbers
    return share * magnitude.double() + unit * expected.double().abs() + smallest
