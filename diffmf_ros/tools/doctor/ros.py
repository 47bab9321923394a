# SPDX-License-Identifier: Apache-2.0
"""ROS and how images travel: libraries, middleware, the Fast DDS profile, shared memory and
buffers."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...core.frames import DiffmfError
from ...core.packages import pip_install
from ...io.resources import FASTDDS_VARIABLES, find
from . import Finding, Imported, Severity, try_code, try_imports

NEEDED = ('rclpy', 'sensor_msgs.msg', 'diagnostic_msgs.msg', 'diffmf_ros.ros.fusion_node')
MIDDLEWARE = 'import rclpy.utilities; answer = rclpy.utilities.get_rmw_implementation_identifier()'
# As the node starts, where a library may end the process.
START = """
from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier, try_shutdown
from diffmf_ros.ros import process
process.use_camera_transports()
process.init([])
process.created(lambda: Node('_diffmf_doctor')).destroy_node()
try_shutdown()
answer = get_rmw_implementation_identifier()"""
REFUSED = 'diffmf_ros.ros.process.ArgumentError: '
OPTIONAL = {'launch_ros': 'no launch files: start fusion_node by itself',
            'message_filters': 'sync.policy approximate and exact are not to be had',
            'cv_bridge': 'image encodings that this package does not know are refused',
            'tf2_ros': 'alignment.from_tf is not to be had'}
GET_ROS = ('source the setup.bash of a ROS 2 installation; on a bare x86_64 machine: '
           f'{pip_install("ros")}')
GET_MIDDLEWARE = 'install the middleware that RMW_IMPLEMENTATION names, or unset it'
# What the reason of a refusal names, and what to do.
CURES = {'ROS_DOMAIN_ID': 'set ROS_DOMAIN_ID to a number from 0 to 232, or unset it',
         'ROS_LOG_DIR': 'set ROS_LOG_DIR to a folder that can be written, or unset it',
         '': "what it names is set by a variable: env | grep -E 'ROS|RMW|DDS'"}
# Fast DDS by itself has a segment of half a megabyte, of which larger images are lost.
ENOUGH_SEGMENT_MB = 4


def libraries() -> Iterator[Finding]:
    """rclpy and the messages, without which the node cannot run, and what it can do without."""
    found = try_imports([*NEEDED, *OPTIONAL])
    for name in NEEDED:
        blocks = bool(found[name].reason)
        yield Finding('ros', name, found[name].text, Severity.FAIL if blocks else Severity.GOOD,
                      _how_to_get(found[name].reason) if blocks else '')
    for name, effect in OPTIONAL.items():
        if found[name].reason:
            yield Finding('ros', name, f'{found[name].reason}: {effect}', Severity.WARN)
        else:
            yield Finding('ros', name, found[name].text)
    if not found['rclpy'].reason:
        yield Finding('ros', 'distribution', os.environ.get('ROS_DISTRO')
                      or 'none is sourced (wheels)')
        yield from _start(complete=not any(found[name].reason for name in NEEDED))


def _how_to_get(reason: str) -> str:
    """What to do where a library cannot be imported."""
    return GET_MIDDLEWARE if 'RMW implementation' in reason else GET_ROS


def _start(*, complete: bool) -> Iterator[Finding]:
    """The middleware; and whether a node starts, where the libraries of this one are complete."""
    started = try_code(START) if complete else Imported()
    middleware = started if complete and not started.reason else try_code(MIDDLEWARE)
    if middleware.reason:
        yield Finding('ros', 'middleware', middleware.text, Severity.FAIL, GET_MIDDLEWARE)
        return
    yield Finding('ros', 'middleware', middleware.text)
    if started.reason:
        said = started.reason.removeprefix(REFUSED)
        yield Finding('ros', 'start', f'no node can start: {said}', Severity.FAIL,
                      next(cure for name, cure in CURES.items() if name in said))
    elif complete:
        yield Finding('ros', 'start', 'a node starts')


def why_no_rclpy() -> str:
    """Return why rclpy cannot be imported, with what helps, or ''."""
    found = try_code('import rclpy; answer = ""')
    if not found.reason:
        return ''
    if found.reason == 'rclpy is not installed':
        return f'{found.reason}; {GET_ROS}'
    return f'rclpy cannot be imported: {found.reason}; `diffmf doctor` says more'


def require_rclpy(purpose: str) -> None:
    """Raise DiffmfError, which names the purpose, where rclpy is missing or cannot be imported."""
    if missing := why_no_rclpy():
        raise DiffmfError(f'{purpose}, and {missing}')


def transport(environ: Mapping[str, str] = os.environ, shm: Path = Path('/dev/shm'),  # noqa: S108
              proc: Path = Path('/proc')) -> Iterator[Finding]:
    """The profile of Fast DDS, and whether the system has room for what the profile asks for."""
    name = next((name for name in FASTDDS_VARIABLES if environ.get(name)), None)
    try:
        path = Path(environ[name]) if name else find('config/fastdds.xml')
        profile = path.read_text()
    except (DiffmfError, OSError) as error:
        yield Finding('transport', 'Fast DDS profile', str(error),
                      Severity.WARN if name else Severity.FAIL,
                      f'correct {name}' if name else 'install the package again')
        return
    text = f'{name}={path}' if name else f'{path}, set by the node itself'
    exported = ' '.join(f'{variable}={shlex.quote(str(path))}' for variable in FASTDDS_VARIABLES)
    advice = '' if name else ('camera drivers and bag players need the profile too; in their '
                              f'shells run\nexport {exported}')
    yield Finding('transport', 'Fast DDS profile', text, Severity.GOOD, advice)
    yield _segment(profile, shm)
    yield _buffers(profile, proc / 'sys/net/core/rmem_max')


def _segment(profile: str, shm: Path) -> Finding:
    """The shared-memory segment of each participant against the free space of /dev/shm."""
    segment_mb = _first_number(profile, 'segment_size') / 2 ** 20
    if segment_mb < ENOUGH_SEGMENT_MB:
        return Finding('transport', 'shared memory', f'a segment of {segment_mb:.1f} MB',
                       Severity.WARN,
                       'images over 512 KB get lost: give the profile a segment_size of 16777216')
    if not shm.is_dir():
        return Finding('transport', 'shared memory', f'there is no {shm}', Severity.WARN,
                       'images travel by UDP')
    free_mb = shutil.disk_usage(shm).free / 2 ** 20
    text = f'a segment of {segment_mb:.0f} MB for each participant, {free_mb:.0f} MB free in {shm}'
    if free_mb < 2 * segment_mb:
        return Finding('transport', 'shared memory', text, Severity.WARN,
                       f'make room in {shm}; in a container: --shm-size=1g, or --ipc=host')
    return Finding('transport', 'shared memory', text)


def _buffers(profile: str, limit: Path) -> Finding:
    """The UDP buffer asked for against what the kernel allows; it silently gives less."""
    wanted = _first_number(profile, 'receiveBufferSize')
    if not limit.exists():  # in containers with a network of their own
        return Finding('transport', 'UDP buffer',
                       f'{wanted / 2 ** 20:.1f} MB wanted, the limit cannot be read here')
    allowed = int(limit.read_text())
    text = f'{wanted / 2 ** 20:.1f} MB wanted, {allowed / 2 ** 20:.1f} MB allowed'
    if allowed < wanted:
        return Finding('transport', 'UDP buffer', text, Severity.WARN,
                       f'images over the network get lost: sudo sysctl -w '
                       f'net.core.rmem_max={wanted}')
    return Finding('transport', 'UDP buffer', text)


def _first_number(profile: str, element: str) -> int:
    found = re.search(rf'<{element}>\s*(\d+)\s*</{element}>', profile)
    return int(found[1]) if found else 0
