# SPDX-License-Identifier: Apache-2.0
"""Which chips exchange data: the notations of a collective's groups."""

import re
from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    """size: chips that exchange with one another. first: one such group."""

    size: int
    first: tuple[int, ...]


def group(attributes: str, devices: int) -> Group:
    """The groups of a collective, all of one size, from its attributes.

    Three notations: lists `{{0,1},{2,3}}`; `[2,8]<=[4,4]T(1,0)`, an enumeration that is
    reshaped and transposed; and `mesh['a'=2,'b'=8] {'b'}`, named axes. A permutation's
    pairs give the two chips of one pair. All devices, if nothing is said.
    """
    everyone = Group(devices, tuple(range(devices)))
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    if pairs:
        return Group(2, (int(pairs[1]), int(pairs[2])))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        first = tuple(int(n) for n in listed[1].split(","))
        return Group(len(first), first)
    counted = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    )
    if counted:
        shape, source, order = (_numbers(part) for part in counted.groups())
        ids = np.arange(int(np.prod(source))).reshape(source)
        ids = ids.transpose(order) if order else ids
        first = tuple(int(n) for n in ids.reshape(shape)[0])
        return Group(len(first), first)
    named = re.search(r"replica_groups=\w+\[([^\]]*)\] ?\{([^}]*)\}", attributes)
    if named:
        sizes = {k: int(n) for k, n in re.findall(r"'([^']+)'=(\d+)", named[1])}
        chosen = re.findall(r"'([^']+)'(:\()?", named[2])
        if not any(part for _, part in chosen):
            ids = np.arange(int(np.prod(list(sizes.values())))).reshape(
                tuple(sizes.values())
            )
            along = {name for name, _ in chosen}
            first = tuple(
                int(n)
                for n in np.ravel(
                    ids[tuple(slice(None) if n in along else 0 for n in sizes)]
                )
            )
            return Group(len(first), first)
    return everyone


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",")) if text else ()
