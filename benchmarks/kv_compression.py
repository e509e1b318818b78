# SPDX-License-Identifier: Apache-2.0
"""What PixArt-Sigma's merged keys and values save, at 1024 and 2048 pixels.

    python benchmarks/kv_compression.py               # the table
    python benchmarks/kv_compression.py --sizes 1024  # one row of it

The FLOPs of the published XL/2 are XLA's count of one lowered forward pass, of which
nothing runs: they are exact. Wall-clock and its FLOPs are of a narrow network with the
same tokens and the same width of a head (two layers of two heads, of which the second
is compressed, as half of the published layers are), in float32. With and without live
in processes of their own and take turns (`benchmarks/pairing.py`); the ratio is the
median of paired ratios, with the quartiles: below 1, compression is faster.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

from pairing import Child, head, machine, paired, serve, take_turns

TEXT = 300
"""Tokens of text, as published."""


def narrow(size: int, compressed: bool) -> Any:
    """Two layers of the published width of a head, for images of `size` pixels."""
    from jdit.blocks.pixart import Compression
    from jdit.conditioning import Text
    from jdit.models.pixart import pixart_sigma

    merged = Compression(2, 1) if compressed else None
    return pixart_sigma(
        size, dim=144, depth=2, heads=2, conditioning=Text(64), compression=merged
    )


def build(args: argparse.Namespace) -> Callable[[], object]:
    """A contestant, in its own process."""
    import jax

    model = narrow(args.size, args.name == "merged")
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(model.init)(keys[0])
    x_t = jax.random.normal(keys[1], (1, *model.sample_shape))
    text = jax.random.normal(keys[2], (1, TEXT, model.conditioning.features))
    time = jax.numpy.full((1,), 0.5)

    @jax.jit
    def apply(params: Any, x_t: Any, time: Any, text: Any) -> Any:
        return model.apply(params, x_t, time, {"text": text}).prediction

    return lambda: apply(params, x_t, time, text).block_until_ready()


def compare(size: int, args: argparse.Namespace) -> str:
    """One row of the table."""
    from jdit.blocks.pixart import Compression
    from jdit.inspect import flops
    from jdit.models.pixart import pixart_sigma

    published = [
        flops(pixart_sigma(size, compression=merged), text=TEXT)
        for merged in (None, Compression(2, 14))
    ]
    small = [flops(narrow(size, merged), text=TEXT) for merged in (False, True)]
    flags = dict(size=size, cores=args.cores, allocator=args.allocator)
    names = ("whole", "merged")
    whole, merged = (Child(__file__, {"name": name} | flags) for name in names)
    take_turns([whole, merged], args.rounds, args.seconds)
    ratios = [b / a for a, b in zip(whole.times, merged.times, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    cells = [
        f"{size}",
        f"{(size // 16) ** 2:,}",
        *(f"{count / 1e12:.2f}" for count in published),
        f"{published[1] / published[0]:.3f}",
        f"{small[1] / small[0]:.3f}",
        f"{paired(merged.times, whole.times):.3f} ({low:.3f} to {high:.3f})",
        f"{paired(merged.cpu, whole.cpu):.3f}",
        *(f"{1e3 * statistics.median(x.times):.0f}" for x in (whole, merged)),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="1024,2048")
    parser.add_argument("--cores", type=int, default=2, help="threads of each")
    parser.add_argument("--rounds", type=int, default=0, help="default: by --seconds")
    parser.add_argument("--seconds", type=float, default=60, help="per size")
    parser.add_argument("--allocator", default="keep", choices=("keep", "default"))
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        os.environ["OMP_NUM_THREADS"] = str(args.cores)
        return serve(lambda: build(args), cores=args.cores, allocator=args.allocator)
    print(f"{machine()}; float32, batch 1, {TEXT} tokens of text\n")
    titles = "pixels|tokens|XL/2 TFLOP|merged|ratio|narrow: ratio of FLOPs"
    titles += "|ratio of times (quartiles)|of CPU times|whole ms|merged ms"
    print(head(*titles.split("|")), flush=True)
    for size in args.sizes.split(","):
        print(compare(int(size), args), flush=True)


if __name__ == "__main__":
    main()
