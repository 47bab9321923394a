# SPDX-License-Identifier: Apache-2.0
"""Time: the rate and health of the streams, pairing, and which sources are used."""
