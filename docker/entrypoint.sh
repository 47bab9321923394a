#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes ROS and the workspace known, then becomes the command of the container.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /ws/install/setup.bash
exec "$@"
