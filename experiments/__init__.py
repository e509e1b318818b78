# SPDX-License-Identifier: Apache-2.0
"""One recipe a published system."""
