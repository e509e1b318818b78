# SPDX-License-Identifier: Apache-2.0
"""Memory of the host: how a process keeps what it has freed, for speed on CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for reuse; whether it agreed.

    XLA:CPU allocates one block for all temporaries of a program at each call and
    frees it at the end. glibc maps and unmaps a block of that size each time, and the
    kernel clears every page of it again: a train step of DiT-S/2 at batch 8 spent
    between a quarter and two thirds of its CPU time there (docs/performance.md). This
    switches mapping off (`M_MMAP_MAX` 0), never gives the top of the heap back
    (`M_TRIM_THRESHOLD`), and lets all threads share one heap (`M_ARENA_MAX` 1), as
    others are limited to 64 MiB. Numbers do not change. The price is that the process
    stays at its peak size until it ends, which is why only programs call this (the
    command line does), at their start, and importing jdit does not.

    Only glibc has these options: elsewhere nothing happens and the answer is False.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    options = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))
    return all([libc.mallopt(option, value) for option, value in options])
