# SPDX-License-Identifier: Apache-2.0
"""The lifecycle shell: configure loads and checks, activate warms up and runs, deactivate stops,
cleanup frees."""

import argparse
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from lifecycle_msgs.msg import State
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from ..core.frames import DiffmfError, Issue, Level
from ..core.settings import Settings, SettingsError
from ..inference.network import require_network
from ..inference.pipeline import FusionPipeline
from . import parameters, process
from .frame_loop import BackgroundLoader
from .process import CallbackFailed, Life
from .session import Session, require_packages
from .topics import Outputs

# What needs another network; everything else changes within a frame.
NETWORK = ('model', 'preset', 'weights', 'engine', 'device', 'precision', 'scan_backend',
           'threads')

# A lifecycle manager waits 5 s for a transition by default; a network that needs longer than this
# is loaded aside.
LOADING_S = 2.0
HOW_TO = """parameters (`ros2 param list /fusion_node`, docs/parameters.md) and topics:
  --ros-args -p model:=classical
  --ros-args --params-file my_fusion.yaml
  --ros-args -r rgb/image_raw:=/camera/image_raw -r thermal/image_raw:=/lepton/image_raw
"""


class FusionNode(LifecycleNode):
    """Fuses rgb/image_raw and thermal/image_raw into fused/image, with fused/camera_info beside
    it."""

    def __init__(self, *, make_pipeline: Callable = FusionPipeline, **node_options):
        """make_pipeline(settings, watchdog=True) returns what fuses."""
        super().__init__('fusion_node', **node_options)
        self._make_pipeline = make_pipeline
        self._settings: Any = None  # as the parameters say
        self._in_use: Any = None  # those of the network that fuses
        self._pipeline: Any = None
        self._loader: Any = None
        self._outputs: Any = None
        self._session: Session | None = None
        self._enabled = True
        self._starts_itself = False
        parameters.declare(self)
        parameters.guard(self, self._apply)
        self.create_service(SetBool, '~/enable', self._on_enable)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters, all or none.

        A read-only one that keeps its value is no change: dumps load again whole.
        """
        changes = [parameter for parameter in parameter_list
                   if not parameters.is_kept(self, parameter)]
        return super().set_parameters_atomically(changes) if changes else SetParametersResult(
            successful=True)

    @property
    def autostart(self) -> bool:
        """Whether the node is to configure and activate itself."""
        return self.get_parameter('autostart').value

    def start(self) -> bool:
        """Configure and activate; return whether both worked (the reason of a failure is logged).
        """
        success = TransitionCallbackReturn.SUCCESS
        self._starts_itself = True  # nobody waits for an answer, so it does for its network
        try:
            return self.trigger_configure() == success and self.trigger_activate() == success
        finally:
            self._starts_itself = False

    def finish(self) -> None:
        """Shut down, unless a lifecycle transition has done so."""
        if self._state_machine.current_state[0] != State.PRIMARY_STATE_FINALIZED:
            self.trigger_shutdown()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load and check the network, make the publishers."""
        return self._attempt('configure', self._configure,
                             lambda: super(FusionNode, self).on_configure(state))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Warm up, enable the publishers, subscribe, start the worker."""
        return self._attempt('activate', self._activate,
                             lambda: super(FusionNode, self).on_activate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, stop the worker, report a last time."""
        self._let_go(self._close_session)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the pipeline and the publishers."""
        self._let_go(self._free)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free, from whatever state."""
        self._let_go(self._free)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free: the node can be configured again."""
        self._let_go(self._free)
        return TransitionCallbackReturn.SUCCESS

    def _attempt(self, what: str, work: Callable, then: Callable) -> TransitionCallbackReturn:
        """Do work, then what rclpy does in this transition.

        A failure is logged and leaves the state as it was.
        """
        try:
            work()
        except DiffmfError as error:
            self.get_logger().error(f'cannot {what}: {error}')
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would turn it into a state change and lose the reason
            self.get_logger().error(f'cannot {what}:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.FAILURE
        return then()

    def _let_go(self, work: Callable) -> None:
        """Do work; a failure ends the node. rclpy would hide it, and leave a node without use.

        Raises CallbackFailed.
        """
        try:
            work()
        except Exception as error:
            raise CallbackFailed from error

    def _configure(self) -> None:
        settings = parameters.read(self)
        require_packages(settings)
        for refused in process.take_priority(settings.realtime):  # before threads of networks
            self.get_logger().warning(refused)
        self._settings = settings
        if self._starts_itself or settings.model == 'classical' or not self._loaded_in_time(
                settings):
            self._pipeline = self._make_pipeline(settings, watchdog=True)
            self._in_use = settings
            self._loader = BackgroundLoader(self, self._pipeline, self._on_loaded)
        self._outputs = Outputs(self)
        for said in self._pipeline.missing:
            self.get_logger().warning(said)
        self.get_logger().info(f'configured: {self._pipeline.description} on '
                               f'{self._pipeline.device}')

    def _loaded_in_time(self, settings: Settings) -> bool:
        """Load the network aside and wait for it, but not for long.

        Return whether it is there, or will be.

        False for one that cannot be loaded: making its pipeline says why, or what it does without.
        """
        classical = replace(settings, model='classical')
        pipeline = self._make_pipeline(classical, watchdog=True)
        pipeline.update(settings)
        loader = BackgroundLoader(self, pipeline, self._on_loaded)
        loader.request(settings)
        outcome = loader.wait(LOADING_S)
        if outcome is not None and outcome[1] is None:
            loader.close()
            pipeline.close()
            return False
        self._pipeline, self._loader, self._in_use = pipeline, loader, classical
        if outcome is not None:
            self._on_loaded(*outcome)
        else:
            self.get_logger().info(f'{settings.model} {settings.network_preset} is loaded aside: '
                                   f'fusing classically '
                                   'until it is ready')
        return True

    def _activate(self) -> None:
        if not self._loader.busy:  # what is loaded aside is warmed up aside
            self._pipeline.warm_up(self._settings.warm_up)
        self._session = Session(self, self._settings, self._pipeline, self._outputs)
        self._session.enable(self._enabled)
        self.get_logger().info(f'active: {self._pipeline.description} on {self._pipeline.device}'
                               f'{"" if self._enabled else ", disabled by ~/enable"}')

    def _apply(self, settings: Settings) -> None:
        """Put settings into effect, as far as the state of the node has use for them.

        Raises DiffmfError.
        """
        if self._pipeline is None:
            return
        before = self._settings
        if settings.autostart != before.autostart:
            raise SettingsError('autostart says what the node does when it starts; it has started')
        if settings.realtime != before.realtime:
            raise SettingsError('realtime.* is for the start: set it before configuring')
        require_packages(settings)
        another = any(getattr(settings, name) != getattr(before, name) for name in NETWORK)
        if another:
            require_network(settings)
        self._pipeline.update(settings)
        self._settings = settings
        if self._session is not None:
            self._session.apply(settings)
        if another:
            self._loader.request(settings)

    def _on_loaded(self, settings: Settings, loaded, error: str) -> None:
        """Another network is ready, or failed to load: then the parameters go back to the one that
        fuses."""
        if loaded is None:
            self._keep_network(f'{settings.model} {settings.network_preset} cannot be loaded, '
                               f'{self._pipeline.description} goes on: {error}')
            return
        self._in_use = settings
        if self._session is not None:
            self._session.replace_network(loaded)
        else:
            self._pipeline.swap(loaded)

    def _keep_network(self, trouble: str) -> None:
        self.get_logger().error(trouble)
        self._settings = replace(self._settings,
                                 **{name: getattr(self._in_use, name) for name in NETWORK})
        self._pipeline.update(self._settings)
        if self._session is not None:
            self._session.apply(self._settings)
            self._session.not_loaded = Issue('network_not_loaded', trouble, level=Level.ERROR)
        parameters.write(self, self._settings)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        if self._session is not None:
            self._session.enable(request.data)
        response.success = True
        response.message = ('enabled' if request.data else 'disabled') + (
            '' if self._session is not None else ', from the next activation on')
        return response

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _free(self) -> None:
        self._close_session()
        if self._pipeline is not None:
            self._loader.close()
            self._outputs.destroy()
            self._pipeline.close()
            self._pipeline = self._loader = self._outputs = None


def main(args: list[str] | None = None) -> NoReturn:
    """Run the node until SIGINT or SIGTERM, then end the process; 1: no start, or a failure."""
    life = Life('fusion_node')
    life.live(lambda: run(life, args))


def parse(arguments: list[str]) -> None:
    """Print the help where it is asked for, and refuse words that mean nothing; ends the process.
    """
    argparse.ArgumentParser(
        'fusion_node', usage='%(prog)s [-h] [--ros-args ...]', epilog=HOW_TO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Fuses the images of rgb/image_raw and thermal/image_raw into fused/image.',
    ).parse_args(arguments)


def run(life: Life, args: list[str] | None) -> int:
    """Create the node, start it if it is to start by itself, and spin; return the exit code."""
    process.use_camera_transports()
    try:
        parse(process.own_arguments(args))
        process.init(args)
        life.node = node = process.created(FusionNode)
    except SystemExit as end:  # after the help, or a word that means nothing
        return int(end.code or 0)
    except (ParameterException, process.ArgumentError) as error:
        get_logger('fusion_node').fatal(f'cannot start: {error}')
        return 1
    for said in parameters.unused(node, sys.argv if args is None else args):
        node.get_logger().warning(said)
    with life.stop.interrupting():
        if node.autostart and not node.start():
            return 1
    process.spin_until(node, life.stop)
    node.finish()
    return 0


if __name__ == '__main__':
    main()
