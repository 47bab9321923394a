# SPDX-License-Identifier: Apache-2.0
"""Files: recordings, folders, images, videos, installed resources, safe writing."""
