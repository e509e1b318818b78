# SPDX-License-Identifier: Apache-2.0
"""Arrays that an official module gave, stored because it is no dependency."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent / "reference"


def cases(family):
    """{case: {name: array}} of a family; a case's "weights" are a dict of their own."""
    found = {}
    for key, value in load_file(FOLDER / f"{family}.safetensors").items():
        case, name = key.split("/", 1)
        own = found.setdefault(case, {"weights": {}})
        if name.startswith("weights/"):
            own["weights"][name.removeprefix("weights/")] = value
        else:
            own[name] = value
    return found


def write(folder, case):
    """The weights of a case as a file in the official layout."""
    path = folder / "weights.safetensors"
    save_file(case["weights"], path)
    return path


def last(x):
    """Channels last."""
    return np.moveaxis(x, 1, -1)


def bits(state):
    return {key: (value.dtype, value.tobytes()) for key, value in state.items()}


def near(name, ours, want, room=1e-5):
    off = np.abs(np.asarray(ours) - want).max()
    assert off < room, f"{name} is {off:.2g} from the official module's"


def compare(ours, case, room=1e-5):
    """Stage by stage in our order, against all of a case's "outputs/"."""
    names = {key.split("/", 1)[1] for key in case if key.startswith("outputs/")}
    assert ours.keys() == names
    for name, mine in ours.items():
        want = case[f"outputs/{name}"]
        assert mine.shape == want.shape, name
        near(name, mine, want, room)
