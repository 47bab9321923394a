# SPDX-License-Identifier: Apache-2.0
"""The extrinsics of the two cameras from TF, for alignment.from_tf."""

from collections.abc import Mapping

from rclpy.node import Node
from rclpy.time import Time

from ..core.alignment.camera import CameraModel
from ..core.alignment.geometry import AlignmentError
from ..core.alignment.rig import Extrinsics
from ..core.frames import RGB, THERMAL, DiffmfError, Issue
from ..core.settings import Settings


class Transforms:
    """Follows the transform between the optical frames of the two cameras, where settings ask for
    it.

    `issue` says what is missing; None: nothing.
    """

    def __init__(self, node: Node, buffer=None, listener=None):
        """buffer and listener are tf2_ros's; None: nothing is asked for."""
        self.issue: Issue | None = None
        self._node, self._buffer, self._listener = node, buffer, listener
        self._known: Extrinsics | None = None

    @classmethod
    def make(cls, node: Node, settings: Settings) -> 'Transforms':
        """Listen to TF if settings say so.

        Raises DiffmfError when tf2_ros is not installed.
        """
        cls.require(settings)
        if not settings.alignment.from_tf:
            return cls(node)
        from tf2_ros import Buffer, TransformListener
        buffer = Buffer()
        return cls(node, buffer, TransformListener(buffer, node))

    @staticmethod
    def require(settings: Settings) -> None:
        """Raise DiffmfError when settings ask for TF and tf2_ros is not installed."""
        if not settings.alignment.from_tf:
            return
        try:
            import tf2_ros  # noqa: F401
        except ImportError as error:
            raise DiffmfError(
                f'alignment.from_tf needs tf2_ros, which cannot be imported ({error}); install '
                'ros-<distro>-tf2-ros-py, or write the extrinsics into alignment.file') from error

    def refresh(self, cameras: Mapping[str, CameraModel], aligner) -> None:
        """Hand the newest transform to aligner, when there is one and it has changed."""
        if self._buffer is None:
            return
        missing = [f'{stream}/camera_info' for stream in (RGB, THERMAL) if stream not in cameras]
        if missing:
            self._miss(f'alignment.from_tf waits for {" and ".join(missing)}')
            return
        target, source = cameras[THERMAL].frame_id, cameras[RGB].frame_id
        try:
            transform = self._buffer.lookup_transform(target, source, Time()).transform
        # tf2's exceptions share no base class of their own on every distribution
        except Exception as error:
            self._miss(f'no transform from {source} to {target} on TF: {error}')
            return
        try:
            extrinsics = extrinsics_of(transform)
            if extrinsics != self._known:
                aligner.set_extrinsics(extrinsics)
                self._known = extrinsics
        except AlignmentError as error:
            self._miss(f'the transform from {source} to {target} on TF is not usable: {error}')
        else:
            self.issue = None

    def _miss(self, what: str) -> None:
        self.issue = Issue('no_transform', what)

    def destroy(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.unregister()
        self._buffer = self._listener = None


def extrinsics_of(transform) -> Extrinsics:
    """Return a geometry_msgs/Transform as Extrinsics: x_target = R x_source + t, t in m.

    Raises AlignmentError.
    """
    q, t = transform.rotation, transform.translation
    return Extrinsics.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
