# SPDX-License-Identifier: Apache-2.0
"""Hooks of mkdocs: links that leave docs/ become names of files in the repository."""

import re

OUTSIDE = re.compile(r'\[([^]]+)\]\(\.\./([^)#\s]+)[^)]*\)')


def on_page_markdown(markdown: str, **_) -> str:
    """Return the text of a page with links to ../FILE replaced by the file's name."""
    return OUTSIDE.sub(lambda found: named(*found.groups()), markdown)


def named(text: str, path: str) -> str:
    """Return the text of a link with the path, once where the text is the path already."""
    plain = text.strip('`')
    return f'`{path}`' if path.endswith(plain) else f'{text} (`{path}`)'
