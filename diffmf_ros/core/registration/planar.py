# SPDX-License-Identifier: Apache-2.0
"""Robust fit of a similarity, affine map or homography to correspondences with outliers.

Points are N x 2 float64, in pixels. They are scaled to about -1 to 1 for solving, so that the
eight parameters of a homography weigh alike (Hartley and Zisserman, section 4.4).
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

# Columns: the free parameters of a model as h0 .. h7 of [[h0, h1, h2], [h3, h4, h5], [h6, h7, 1]].
_PARAMETERS = {
    'homography': np.eye(8),
    'affine': np.eye(8, 6),
    'similarity': np.array([[1, 0, 0, 0, 1, 0, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0],
                            [0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]], float).T,
}
MODELS = tuple(_PARAMETERS)
_STEPS, _ROUNDS = 4, 4
_CONFIDENCE, _ITERATIONS = 0.999, 3000


@dataclass(frozen=True)
class Fit:
    """A map from source to target pixels.

    matrix is 3 x 3; inliers N bool; residual_px the RMS distance of their targets. covariance, of
    the model's parameters, belongs to points scaled by scaling (source, target), both 3 x 3: see
    transfer_std_px().
    """

    model: str
    matrix: np.ndarray
    inliers: np.ndarray = field(repr=False)
    residual_px: float
    covariance: np.ndarray = field(repr=False)
    scaling: tuple[np.ndarray, np.ndarray] = field(repr=False)

    def transfer_std_px(self, points: np.ndarray) -> float:
        """Return the transfer error of points: the RMS of their standard deviations.

        Args:
            points: N x 2 in pixels.

        Returns:
            The error in pixels.
        """
        source, target = self.scaling
        scaled = target @ self.matrix @ np.linalg.inv(source)
        jacobian = derivatives(scaled / scaled[2, 2],
                             transform_points(source, points)) @ _PARAMETERS[self.model]
        variance = np.einsum('nij,jk,nik->n', jacobian, self.covariance, jacobian)
        return float(np.sqrt(variance.mean())) / target[0, 0]


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move points by a matrix.

    Args:
        matrix: 3 x 3.
        points: N x 2.

    Returns:
        N x 2.
    """
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]
    return homogeneous[:, :2] / homogeneous[:, 2:]


def fit(source: np.ndarray, target: np.ndarray, model: str, *, threshold_px: float,
        samples_per_match: float = 1.0
        ) -> Fit | None:
    """Return the map that most correspondences agree with.

    Args:
        source, target: N x 2 in pixels.
        model: a name of MODELS.
        threshold_px: a target within it is an inlier.
        samples_per_match: below 1 it says that matches share image content, so that N of them tell
            as much as that many fewer: the covariance grows by it.

    Returns:
        The map; None when there is none.
    """
    if len(source) < 6:
        return None
    inliers = _consensus(source, target, model, threshold_px)
    found = None
    for _ in range(_ROUNDS):
        if np.count_nonzero(inliers) < 6:
            return None
        found = _least_squares(source, target, inliers, model, samples_per_match)
        if found is None:
            return None
        again = np.hypot(*(transform_points(found.matrix, source) - target).T) < threshold_px
        if (again == inliers).all():
            break
        inliers = again
    return found


def _consensus(source: np.ndarray, target: np.ndarray, model: str,
               threshold_px: float) -> np.ndarray:
    """N bool: the correspondences that a random sample consensus finds to belong together."""
    if model == 'homography':
        # Older OpenCV (before 4.5) has plain RANSAC alone.
        method = getattr(cv2, 'USAC_MAGSAC', cv2.RANSAC)
        matrix, mask = cv2.findHomography(source, target, method, threshold_px,
                                          maxIters=_ITERATIONS,
                                          confidence=_CONFIDENCE)
    else:
        estimate = cv2.estimateAffine2D if model == 'affine' else cv2.estimateAffinePartial2D
        matrix, mask = estimate(source, target, method=cv2.RANSAC,
                                ransacReprojThreshold=threshold_px,
                                maxIters=_ITERATIONS, confidence=_CONFIDENCE)
    return np.zeros(len(source), bool) if matrix is None else mask.ravel() > 0


def _least_squares(source: np.ndarray, target: np.ndarray, inliers: np.ndarray, model: str,
                   samples_per_match: float) -> Fit | None:
    """Fit to the inliers by Gauss-Newton, or None when they do not determine the model."""
    scaling = unit_scaling(source[inliers]), unit_scaling(target[inliers])
    a, b = transform_points(scaling[0],
                            source[inliers]), transform_points(scaling[1], target[inliers])
    basis = _PARAMETERS[model]
    matrix = np.eye(3)
    for _ in range(_STEPS):
        jacobian = (derivatives(matrix, a) @ basis).reshape(2 * len(a), -1)
        residual = (b - transform_points(matrix, a)).ravel()
        normal = jacobian.T @ jacobian
        if np.linalg.cond(normal) > 1e10:
            return None
        step = basis @ np.linalg.solve(normal, jacobian.T @ residual)
        matrix = matrix + np.append(step, 0).reshape(3, 3)
    residual = (b - transform_points(matrix, a)).ravel()
    square = float(residual @ residual)
    covariance = np.linalg.inv(normal) * square / max(
        1, len(residual) - basis.shape[1]) / samples_per_match
    matrix = np.linalg.inv(scaling[1]) @ matrix @ scaling[0]
    residual_px = (square / len(a)) ** 0.5 / scaling[1][0, 0]
    return Fit(model, matrix / matrix[2, 2], inliers, residual_px, covariance, scaling)


def derivatives(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """N x 2 x 8 derivatives of transform_points(matrix, points) by h0 .. h7."""
    x, y = points.T
    u, v = transform_points(matrix, points).T
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.array([[x, y, one, zero, zero, zero, -u * x, -u * y],
                     [zero, zero, zero, x, y, one, -v * x, -v * y]])
    return (rows / depth).transpose(2, 0, 1)


def unit_scaling(points: np.ndarray) -> np.ndarray:
    """3 x 3 matrix that moves the points' center to 0 and their mean distance from it to 1."""
    center = points.mean(axis=0)
    scale = 1 / max(1e-9, float(np.hypot(*(points - center).T).mean()))
    return np.array([[scale, 0, -scale * center[0]], [0, scale, -scale * center[1]], [0, 0, 1]])
