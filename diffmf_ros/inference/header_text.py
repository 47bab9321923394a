# SPDX-License-Identifier: Apache-2.0
"""Entries of the headers of weight and ONNX files, which are text. Needs neither safetensors nor torch."""

from ..models.sides import Sides

UNKNOWN = 'unknown'  # what was trained elsewhere does not say how long


def number_text(number: int | None) -> str:
    """Return the entry for a number, or for None, which is not known."""
    return UNKNOWN if number is None else str(number)


def number_of(text: str) -> int | None:
    """Undo number_text."""
    return None if text == UNKNOWN else int(text)


def sides_text(sides: Sides) -> str:
    """Return the entry for the sides of a network: multiple, remainder, and 1 if centred."""
    return f'{sides.multiple} {sides.remainder} {int(sides.centred)}'


def sides_of(text: str) -> Sides:
    """Undo sides_text."""
    multiple, remainder, centred = map(int, text.split())
    return Sides(multiple, remainder, centred=bool(centred))
