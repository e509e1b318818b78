# SPDX-License-Identifier: Apache-2.0
"""Memory that `jdit.load` needs beside the parameters it returns.

    python benchmarks/loading.py            # about a minute, 2 GB of disk

A Flux of about half a billion parameters is written in diffusers' layout, bfloat16, in
shards, and read by a process of its own, which watches its private memory (RssAnon:
pages of the mapped files are the kernel's to drop, and are not counted).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MIB = 2**20
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def private() -> float:
    """MiB of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status tells no RssAnon: run this on Linux")


def write(folder: Path, shards: int) -> None:
    """The model, its tensors dealt to shards in their order."""
    import jax
    import ml_dtypes
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    import jdit
    from jdit.conditioning import Text
    from jdit.models.flux import Flux

    text = Text(1024, 768)
    model = Flux((32, 32), 64, dim=1024, depth=8, single_depth=16, heads=8,
                 conditioning=text)  # fmt: skip
    rng = np.random.default_rng(0)

    def draw(x: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.standard_normal(x.shape, np.float32).astype(ml_dtypes.bfloat16)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    jdit.save(folder, model, jax.tree.map(draw, shapes), dtype="bfloat16")
    whole = folder / "diffusion_pytorch_model.safetensors"
    index = {}
    with safe_open(whole, "np") as file:
        keys = list(file.keys())
        for i in range(shards):
            name = f"diffusion_pytorch_model-{i + 1:05}-of-{shards:05}.safetensors"
            mine = keys[i::shards]
            save_file({key: file.get_tensor(key) for key in mine}, folder / name)
            index |= dict.fromkeys(mine, name)
    whole.unlink()
    text = json.dumps({"metadata": {}, "weight_map": index})
    Path(f"{whole}.index.json").write_text(text)


def read(folder: Path, dtype: str) -> None:
    """Load, and print what was needed as JSON."""
    import jax

    import jdit

    jax.block_until_ready(jax.numpy.zeros(1))
    before, peak, done = private(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], private())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    params = jax.block_until_ready(jdit.load(folder, dtype=dtype).params)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    leaves = jax.tree.leaves(params)
    result = dict(
        target=sum(x.nbytes for x in leaves) / MIB,
        leaf=max(x.nbytes for x in leaves) / MIB,
        peak=peak[0] - before,
        seconds=seconds,
    )
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        return read(Path(given.read[0]), given.read[1])
    import jax

    print(f"{platform.processor() or platform.machine()}, jax {jax.__version__}\n")
    print(
        "| dtype | parameters MiB | largest shard | largest leaf | peak MiB | beside |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, given.shards)
        shard = max(x.stat().st_size for x in folder.glob("*.safetensors")) / MIB
        for dtype in ("bfloat16", "float32"):
            command = [sys.executable, __file__, "--read", name, dtype]
            out = subprocess.run(command, check=True, capture_output=True, text=True)
            x = json.loads(out.stdout.splitlines()[-1])
            print(
                f"| {dtype} | {x['target']:.0f} | {shard:.0f} | {x['leaf']:.0f} "
                f"| {x['peak']:.0f} | {x['peak'] - x['target']:.0f} |"
            )


if __name__ == "__main__":
    main()
