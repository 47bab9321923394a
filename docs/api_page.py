# SPDX-License-Identifier: Apache-2.0
"""Writes docs/api.md from the docstrings of the public names: python docs/api_page.py"""

import inspect
import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

import diffmf_ros

PAGE = Path(__file__).with_name('api.md')
HEAD = """# Python API

Made from the docstrings by `python docs/api_page.py`.
[From Python](python.md) shows the use.
All names are those of `diffmf_ros`.
"""
SECTION = re.compile(r'^(Args|Attributes|Returns|Raises|Warns):$', re.MULTILINE)
ENTRY = re.compile(r'^ {4}(?=\S)', re.MULTILINE)
BETWEEN_SENTENCES = re.compile(r'(?<=[.!?]) (?=[A-Z`])')


def page() -> str:
    """Return the text of the page."""
    names = [name for name in diffmf_ros.__all__ if name != '__version__']
    return '\n\n'.join([HEAD.strip(), *(part for name in names for part in parts(name))]) + '\n'


def parts(name: str) -> list[str]:
    """Return the paragraphs about a public name, and about the public methods of a class."""
    value = getattr(diffmf_ros, name)
    if inspect.isfunction(value):
        return [f'## {name}', signature(name, value), prose(value)]
    found = [f'## {name}', prose(value)]
    if issubclass(value, Enum):
        return [*found, 'One of ' + ', '.join(f'`{member.name}`' for member in value) + '.']
    for inner, member in vars(value).items():
        if isinstance(member, property):
            found += [f'### {name}.{inner}', prose(member.fget)]
        elif inspect.isfunction(member) and shown(inner, value) and inner not in fields_of(value):
            usual = f'{name.lower()}.{inner}'
            call = {'__init__': name, '__call__': name.lower()}.get(inner, usual)
            found += [f'### {call}()', signature(call, member), prose(member)]
    return found


def fields_of(owner: type) -> set[str]:
    """Return the names of the fields of a dataclass, of which some hold functions."""
    return {field.name for field in fields(owner)} if is_dataclass(owner) else set()


def shown(method: str, owner: type) -> bool:
    """Return whether a method of a class is for users."""
    return not method.startswith('_') or method == '__call__' or (
        method == '__init__' and not is_dataclass(owner))


def signature(name: str, function) -> str:
    """Return a block of code with the call of a function, without the types of its arguments."""
    given = [parameter.replace(annotation=inspect.Parameter.empty)
             for parameter in inspect.signature(function).parameters.values()
             if parameter.name != 'self']
    return f'```python\n{name}{inspect.Signature(given)}\n```'


def prose(value) -> str:
    """Return a docstring with its sections as lists."""
    text, *sections = SECTION.split(inspect.getdoc(value) or '')
    blocks = ['\n'.join(sentences(paragraph)) for paragraph in text.strip().split('\n\n')]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        blocks += [f'**{title}**', listed(body)]
    return '\n\n'.join(block.replace('**settings:', '`**settings`:') for block in blocks)


def listed(body: str) -> str:
    """Return the entries of a section as a list, one sentence a line."""
    entries = ('\n  '.join(sentences(entry)) for entry in ENTRY.split(body.rstrip('\n')))
    return '\n'.join(f'* {entry}' for entry in entries if entry)


def sentences(text: str) -> list[str]:
    """Return the sentences of a paragraph, each without line breaks."""
    return BETWEEN_SENTENCES.split(' '.join(text.split()))


if __name__ == '__main__':
    PAGE.write_text(page(), encoding='utf-8')
