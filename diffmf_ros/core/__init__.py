# SPDX-License-Identifier: Apache-2.0
"""What is true about a thermal-RGB pair: numpy in, numpy out; no ROS, torch, clock or logger."""
