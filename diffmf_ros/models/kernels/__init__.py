# SPDX-License-Identifier: Apache-2.0
"""The backends of `models.scan`, one module each; `models.scan.BACKENDS` says what such a module has."""
