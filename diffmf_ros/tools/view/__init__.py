# SPDX-License-Identifier: Apache-2.0
"""A web page of a running node: what is newest, who may see it, the server, and the node beside
it."""
