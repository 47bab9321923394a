# SPDX-License-Identifier: Apache-2.0
"""Names of topics and namespaces, checked without ROS.

The rules are those of ROS 2 (https://design.ros2.org/articles/topic_and_service_names.html), but
for substitutions in braces, such as {node}, which are refused.
"""

import re

from .frames import DiffmfError

_TOPIC = re.compile(r'(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)
_NAMESPACE = re.compile(r'/|(/[A-Za-z_]\w*)+', re.ASCII)
_MOST = 247  # characters: DDS allows 255, and ROS puts a prefix before the name
_RULE = (f'words of letters, digits and _ that begin with no digit, single slashes between them, '
         f'at most {_MOST} characters')


def require_topic_name(topic: str) -> None:
    """Raise DiffmfError for a name that no topic can have; a relative one is fine."""
    if not _TOPIC.fullmatch(topic) or len(topic) > _MOST:
        raise DiffmfError('expected the name of a topic, such as /rgb/image_raw, got '
                          f'{topic[:_MOST]!r}: it is {_RULE}')


def require_namespace(namespace: str) -> None:
    """Raise DiffmfError unless a text is a namespace, such as / or /front."""
    if not _NAMESPACE.fullmatch(namespace) or len(namespace) > _MOST:
        raise DiffmfError('expected a namespace, such as / or /front, got '
                          f'{namespace[:_MOST]!r}: it is {_RULE}')
