# SPDX-License-Identifier: Apache-2.0
"""Finds the files that are installed beside the Python code, such as config/fastdds.xml."""

import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..core.frames import DiffmfError

PACKAGE = 'diffmf_ros'
# Fast DDS 3 reads the first name (and the second with a deprecation warning), earlier ones only
# the second.
FASTDDS_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
# Kilted, whose rclpy has this major version, is the first distribution with Fast DDS 3.
KILTED_RCLPY = 9


class ResourceError(DiffmfError):
    """A file that belongs to the installation is missing."""


def find(name: str) -> Path:
    """Return the path of a resource such as 'config/fastdds.xml'.

    Looks in the source checkout, then under the Python prefix, then along AMENT_PREFIX_PATH.
    Raises ResourceError, listing the places, when it is nowhere.
    """
    prefixes = [sys.prefix,
                *filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep))]
    places = [Path(__file__).resolve().parents[2],
              *(Path(p) / 'share' / PACKAGE for p in prefixes)]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ResourceError(f'{name} is in none of {", ".join(map(str, places))}: install the package '
                        f'again '
                        'or, with a ROS workspace, source its install/setup.bash')


def fastdds_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add to environ so that Fast DDS carries images of camera size.

    Empty when the user has set one of them: a user's own profile is never replaced.
    """
    if any(environ.get(name) for name in FASTDDS_VARIABLES):
        return {}
    return dict.fromkeys(_fastdds_names(), str(find('config/fastdds.xml')))


def _fastdds_names() -> tuple[str, ...]:
    """The variables that the installed Fast DDS reads without a warning.

    Both if it is not known.
    """
    try:
        major = int(version('rclpy').partition('.')[0])
    except (PackageNotFoundError, ValueError):
        return FASTDDS_VARIABLES
    return FASTDDS_VARIABLES[:1] if major >= KILTED_RCLPY else FASTDDS_VARIABLES[1:]
