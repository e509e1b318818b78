# SPDX-License-Identifier: Apache-2.0
"""Compiling ahead: a recipe's real program on chips that are not there, and a report."""
