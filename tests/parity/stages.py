# SPDX-License-Identifier: Apache-2.0
"""Stage by stage against a reference: arrays by the name of what computed them."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

FOLDER = Path(__file__).parent / "reference"


def stored(family):
    """{case: {"weights" | "inputs" | "outputs": arrays by name}} of official code."""
    found = defaultdict(lambda: defaultdict(dict))
    for key, array in load_file(FOLDER / f"{family}.safetensors").items():
        case, kind, name = key.split("|")
        found[case][kind][name] = array
    return found


def compare(ours, theirs, room=1e-5):
    """The largest difference; asserted in their order, so that a failure says where."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for name, want in theirs.items():
        off = float(np.abs(np.asarray(ours[name]) - want).max())
        assert off <= room, f"{name} is {off:.2g} from the reference's"
        worst = max(worst, off)
    assert np.abs(theirs["output"]).max() > 0.1  # the weights are not trivial
    return worst
