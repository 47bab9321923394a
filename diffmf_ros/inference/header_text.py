# SPDX-License-Identifier: Apache-2.0
"""Entries of the headers of weight and ONNX files, which are text. Needs neither safetensors nor torch."""

from ..models.input_size import SizeRule

UNKNOWN = 'unknown'  # what was trained elsewhere does not say how long


def number_text(number: int | None) -> str:
    """Return the entry for a number, or for None, which is not known."""
    return UNKNOWN if number is None else str(number)


def number_of(text: str) -> int | None:
    """Undo number_text."""
    return None if text == UNKNOWN else int(text)


def sides_text(sides: SizeRule) -> str:
    """Return the entry for the sides of a network: multiple, remainder, and 1 if centered."""
    return f'{sides.multiple} {sides.remainder} {int(sides.centered)}'


def sides_of(text: str) -> SizeRule:
    """Undo sides_text."""
    multiple, remainder, centered = map(int, text.split())
    return SizeRule(multiple, remainder, centered=bool(centered))
