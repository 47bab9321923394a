# SPDX-License-Identifier: Apache-2.0
"""`diffmf view`: a web page beside a running node."""

import os
import sys
from typing import Annotated

import typer

from . import options


def view(
    host: Annotated[
        str,
        typer.Option(
            help='address to listen on; 0.0.0.0: all, for a phone in the same network; the '
            'address of the page then has a secret'
        ),
    ] = '127.0.0.1',
    port: Annotated[int, typer.Option(min=0, max=65535, help='0: any that is free')] = 8080,
    namespace: Annotated[str, typer.Option(help='of the fusion node')] = '/',
    rgb_image: Annotated[str, typer.Option(help='topic of the RGB images')] = 'rgb/image_raw',
    thermal_image: Annotated[
        str, typer.Option(help='topic of the thermal images')
    ] = 'thermal/image_raw',
    json: options.Json = None,
) -> None:
    """Show a running node on a web page: images, modes, rates, latency, losses and warnings.

    Works beside the live node, a bag player and `diffmf demo`, which prints the domain it uses.
    """
    from ..core.ros_names import require_namespace, require_topic_name
    from ..tools.doctor.ros import require_rclpy
    from ..tools.view.server import RESULT, require_port

    require_rclpy('the page shows a running node')
    require_port(host, port)
    options.require_own_json(json, RESULT)
    names = {'rgb/image_raw': rgb_image, 'thermal/image_raw': thermal_image,
             '__ns': '/' + namespace.strip('/')}
    changed = {name: other for name, other in names.items() if other not in (name, '/')}
    for name, other in changed.items():
        (require_namespace if name == '__ns' else require_topic_name)(other)
    renamed = (word for name, other in changed.items() for word in ('-r', f'{name}:={other}'))
    os.execv(sys.executable, [
        sys.executable, '-m', 'diffmf_ros.tools.view.viewer', '--host', host, '--port', str(port),
        *(('--json', str(json)) if json else ()), '--ros-args', *renamed,
    ])
