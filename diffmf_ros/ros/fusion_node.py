# SPDX-License-Identifier: Apache-2.0
"""The lifecycle shell: configure builds the pipeline, activate runs it, deactivate stops, cleanup frees."""

import traceback

from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import CameraInfo, Image

from ..core.frames import DiffmfError
from ..inference.pipeline import FusionPipeline
from . import parameters, process, qos
from .session import Session


class FusionNode(LifecycleNode):
    """Fuses rgb/image_raw and thermal/image_raw into fused/image, with fused/camera_info beside it."""

    def __init__(self, **node_options):
        super().__init__('fusion_node', **node_options)
        self._settings = None
        self._pipeline = None
        self._session = None
        parameters.declare(self)
        parameters.guard(self, lambda: self._pipeline is not None)

    @property
    def autostart(self) -> bool:
        """Whether the node is to configure and activate itself."""
        return self.get_parameter('autostart').value

    def start(self) -> bool:
        """Configure and activate; return whether both worked (the reason of a failure is logged)."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, build the pipeline and the publishers."""
        try:
            self._settings = parameters.read(self)
            self._pipeline = FusionPipeline(self._settings)
        except DiffmfError as error:
            self.get_logger().error(f'cannot configure: {error}')
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would turn it into a state change and lose the reason
            self.get_logger().error(f'cannot configure:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.FAILURE
        self._image_out = self._output(Image, 'fused/image')
        self._info_out = self._output(CameraInfo, 'fused/camera_info')
        self.get_logger().info(f'configured: {self._pipeline.description} on {self._pipeline.device}')
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable the publishers, subscribe, start the worker."""
        done = super().on_activate(state)
        self._session = Session(self, self._settings, self._pipeline, self._image_out, self._info_out)
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, stop the worker, report a last time."""
        self._close_session()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the pipeline and the publishers."""
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free, from whatever state."""
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free: the node can be configured again."""
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def _output(self, message_type: type, topic: str):
        return self.create_lifecycle_publisher(
            message_type, topic, qos.profile('reliable', depth=1),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _free(self) -> None:
        self._close_session()
        if self._pipeline is not None:
            self.destroy_lifecycle_publisher(self._image_out)
            self.destroy_lifecycle_publisher(self._info_out)
            self._pipeline = None


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code: 1 when it could not start."""
    stop = process.StopRequest.on_signals()
    process.init(args)
    try:
        return run(stop)
    except ParameterException as error:
        get_logger('fusion_node').fatal(f'cannot start: {error}')
        return 1
    finally:
        try_shutdown()


def run(stop: process.StopRequest) -> int:
    """Create the node, start it if it is to start by itself, and spin; return the exit code."""
    node = FusionNode()
    try:
        if node.autostart and not node.start():
            return 1
        process.spin_until(node, stop)
        node.trigger_shutdown()
        return 0
    finally:
        node.destroy_node()


if __name__ == '__main__':
    raise SystemExit(main())
