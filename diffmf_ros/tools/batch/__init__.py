# SPDX-License-Identifier: Apache-2.0
"""Many pairs, films or recordings: found, fused on several cores, taken up where it stopped."""
