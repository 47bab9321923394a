# SPDX-License-Identifier: Apache-2.0
"""The known name that somebody may have meant who wrote another one."""

from collections.abc import Iterable
from difflib import get_close_matches

# The share of letters in common from which on one name is taken for a misspelling of the other.
ALIKE = 0.7


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like name, or ''.

    Args:
        name: the name that is not known.
        known: the names that are, with groups by dots; the last part of one counts as the name
            too.

    Returns:
        One of known, or ''.
    """
    whole = {item.lower(): item for item in known}
    last = {item.rpartition('.')[2]: known for item, known in whole.items()}
    for names, wanted in ((whole, name.lower()), (last, name.lower().rpartition('.')[2])):
        if found := get_close_matches(wanted, names, n=1, cutoff=ALIKE):
            return names[found[0]]
    return ''


def meant(name: str, known: Iterable[str]) -> str:
    """Return ', did you mean ...?' for the nearest known name, or ''.

    Args:
        name: the name that is not known.
        known: the names that are.

    Returns:
        The end of a sentence.
    """
    found = nearest(name, known)
    return f', did you mean {found}?' if found else ''
