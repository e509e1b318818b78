# SPDX-License-Identifier: Apache-2.0
"""One of several processes that train together, found by its environment.

python group.py FOLDER [--steps N] [--term-at STEP] [--die-at STEP]
"""

import argparse
import json
import os
import signal
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from tiny import Hooked, Means, tiny

from jdit.parallel import Mesh, Rules, first, join, whole
from jdit.recipe import Constant


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--term-at", type=int, default=-1)
    parser.add_argument("--die-at", type=int, default=-1)
    options = parser.parse_args()
    joined = join()

    from jdit.checkpoint import named
    from jdit.train import batches_of, fit, report
    from jdit.train.fit import plan_of

    recipe = tiny(steps=options.steps, learning_rate=1e-3, schedule=Constant())
    recipe = replace(recipe, mesh=Mesh(fsdp=2), sharding=Rules((), smallest=64))
    recipe = replace(recipe, evaluation=Means())
    plan = plan_of(recipe)
    batches: Any = batches_of(recipe, plan)

    def send(number: int) -> Any:
        def act(batch: Any) -> Any:
            os.kill(os.getpid(), number)
            return batch

        return act

    if options.term_at >= 0:
        batches = Hooked(batches, options.term_at, send(signal.SIGTERM))
    if options.die_at >= 0:
        batches = Hooked(batches, options.die_at, send(signal.SIGKILL))
    result = fit(recipe, options.folder, resume=True, batches=batches)
    params = jax.tree.map(whole, result.state.params)
    scores = report(recipe, options.folder)  # of a run that was stopped too
    said = {
        "joined": joined,
        "devices": jax.device_count(),
        "share": None if plan is None else plan.share(),
        "done": result.done,
        "step": int(result.state.step),
        "scores": scores,
        "records": [record["loss"] for record in result.metrics and [result.metrics]],
    }
    print("said " + json.dumps(said))
    if first():
        arrays = {name: np.asarray(x) for name, x in named(params).items()}
        np.savez(f"{options.folder}/final.npz", **arrays)


if __name__ == "__main__":
    main()
