# SPDX-License-Identifier: Apache-2.0
"""Random and damaged inputs: every refusal has a reason, nothing else is raised."""
