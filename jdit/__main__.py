# SPDX-License-Identifier: Apache-2.0
"""`python -m jdit`: the command line."""

from jdit.cli import main

main()
