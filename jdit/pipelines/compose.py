# SPDX-License-Identifier: Apache-2.0
"""A prompt to an image or a video: all the parts of a published pipeline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdit.denoise import Denoiser, Wrapper
from jdit.guidance import CFG
from jdit.interop.schedulers import Scheduler
from jdit.pipelines.output import to_images
from jdit.pipelines.progress import Ticks, progress
from jdit.pipelines.prompts import Prompts
from jdit.sample import sample
from jdit.typing import Array, Conditions, Float, Params

ArrayLike = Array | np.ndarray

Guided = Literal["batch", "told", "none"]
Size = tuple[int, ...]


def on_grid(model: Any, grid: tuple[int, ...]) -> Any:
    """The model of data of another size."""
    return replace(model, grid=grid)


def told_nothing(model: Any) -> Conditions:
    """No condition but those of the prompt."""
    return {}


class Weights(NamedTuple):
    """The parameters of a pipeline's parts."""

    model: Params
    codec: Params
    encoders: Params


@dataclass(frozen=True)
class Pipeline:
    """Images of prompts: `pipeline("an owl", seed=0)`.

    Each of its three programs (encode, draw, decode) is compiled once per shape; seed,
    prompt and strength of guidance are arguments of the program.

    model, codec, prompts: the parts. weights: their parameters.
    scheduler: process, solver and grid, given the number of an image's tokens.
    guided: "batch" is classifier-free guidance, "told" hands the scale to the network
        as the condition "guidance" (Flux), "none" does not guide.
    guide: the wrapper of the denoiser for a scale, where guided is "batch".
    fit: the model of data on another grid. told: what it is told of its size beside the
        prompt, for one image, `1 *e`.
    steps, guidance, size: what a call does unless told otherwise; size in pixels,
        (height, width) or (frames, height, width).
    """

    model: Any
    codec: Any
    prompts: Prompts
    weights: Weights
    scheduler: Callable[[int], Scheduler]
    guided: Guided = "batch"
    guide: Callable[[Array], Wrapper] = CFG
    fit: Callable[[Any, tuple[int, ...]], Any] = on_grid
    told: Callable[[Any], Conditions] = told_nothing
    steps: int = 20
    guidance: float = 4.5
    size: Size = (512, 512)
    ticks: Ticks = field(default_factory=Ticks, repr=False, compare=False)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative: str = "",
        seed: int = 0,
        count: int = 1,
        steps: int | None = None,
        guidance: float | None = None,
        size: Size | None = None,
        latents: Float[ArrayLike, "b *g c"] | None = None,
        output: Literal["image", "array", "latent"] = "image",
        show: bool = True,
    ) -> list[Any] | np.ndarray:
        """Images of a prompt, or of several.

        negative: what to guide away from. count: images of each prompt.
        seed: image i depends on it and on i alone, whatever is drawn beside it.
        steps, guidance, size: of the solver; scale, 1 is none; as the pipeline's.
        latents: where to start, in place of the seed's noise.
        output: "image" gives PIL images, a list of frames for each video; "array"
            numbers in [0, 1], `b h w c` or `b t h w c`; "latent" what the codec would
            decode. show: a progress bar.

        Raises ValueError for no prompt, a size the codec and the patches do not divide,
        fewer than one step, and latents of another shape.
        """
        several = isinstance(prompt, list | tuple)
        texts: list[Any] = list(prompt) if several else [prompt]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"prompt is {prompt!r}, but it must be text, or some texts"
            )
        if count < 1:
            raise ValueError(f"count is {count}, but it must be at least 1")
        steps = self.steps if steps is None else steps
        scale = self.guidance if guidance is None else guidance
        texts = [text for text in texts for _ in range(count)]
        model = self.sized(self.size if size is None else size)
        guided = self.guided == "batch" and scale != 1
        conditions = self.encode(texts, negative if guided else None)
        for name, value in self.told(model).items():
            conditions[name] = jnp.repeat(jnp.asarray(value), len(texts), 0)
        if self.guided == "told":
            conditions["guidance"] = jnp.full(len(texts), scale, jnp.float32)
        with progress(self.ticks, steps if show else 0):
            z = self._draw(
                self.weights.model, jax.random.key(seed), conditions,
                jnp.asarray(scale, jnp.float32),
                None if latents is None else jnp.asarray(latents),
                model=model, steps=steps, guided=guided, ticking=show,
            )  # fmt: skip
            jax.block_until_ready(z)
        if output == "latent":
            return np.asarray(z)
        images = np.asarray(self._decode(self.weights.codec, z))
        return images if output == "array" else to_images(images)

    def encode(self, texts: Sequence[str], negative: str | None) -> Conditions:
        """The conditions of texts, with those of a negative prompt if there is one."""
        has = negative is not None and bool(self.prompts.negatives)
        rows = [*texts, *([negative] if negative is not None and has else [])]
        tokens = self.prompts.tokens(rows)  # together, so that they have one length
        return dict(self._encode(self.weights.encoders, tokens, negative=has))

    def sized(self, size: Size) -> Any:
        """The model of images of this size, in pixels."""
        patch, factor = self.model.tokens.size, self.codec.factor
        factors = factor if isinstance(factor, tuple) else (factor,) * len(patch)
        unit = tuple(f * p for f, p in zip(factors, patch, strict=True))
        first = hasattr(self.codec, "latent_grid")  # a frame that is coded by itself
        sides = (size[0] - 1, *size[1:]) if first and size else size
        fits = len(size) == len(unit) and all(
            s >= 0 and s % u == 0 for s, u in zip(sides, unit, strict=True)
        )
        if not fits or min(size) < 1:
            units = " and ".join(map(str, dict.fromkeys(unit[first:])))
            frames = f"1 more than a multiple of {unit[0]}, then " if first else ""
            raise ValueError(
                f"size is {size}, but it must be {frames}{len(unit) - first} multiples "
                f"of {units}"
            )
        if first:
            return self.fit(self.model, self.codec.latent_grid(size))
        grid = tuple(s // f for s, f in zip(size, factors, strict=True))
        return self.fit(self.model, grid)

    @cached_property
    def _encode(self) -> Callable[..., Conditions]:
        def encode(params: Params, tokens: Any, *, negative: bool) -> Conditions:
            found = self.prompts.conditions(params, tokens)
            if not negative:
                return found
            conditions = {name: value[:-1] for name, value in found.items()}
            conditions["negative"] = {
                name: jnp.broadcast_to(found[name][-1], conditions[name].shape)
                for name in self.prompts.negatives
                if name in found
            }
            return conditions

        return jax.jit(encode, static_argnames="negative")

    @cached_property
    def _draw(self) -> Callable[..., Array]:
        def draw(
            params: Params,
            key: Array,
            conditions: Conditions,
            scale: Array,
            latents: Array | None,
            *,
            model: Any,
            steps: int,
            guided: bool,
            ticking: bool,
        ) -> Array:
            process, solver, grid = self.scheduler(model.tokens.count)

            def wrap(denoiser: Denoiser) -> Denoiser:
                wrapped = self.guide(scale)(denoiser) if guided else denoiser
                return self.ticks(wrapped) if ticking else wrapped

            return sample(
                key, model, params, conditions, process=process, steps=steps,
                solver=solver, grid=grid, guidance=wrap, x_T=latents,
            )  # fmt: skip

        return jax.jit(draw, static_argnames=("model", "steps", "guided", "ticking"))

    @cached_property
    def _decode(self) -> Callable[..., Array]:
        def decode(params: Params, z: Array) -> Array:
            x = self.codec.decode(params, self.codec.denormalise(z))
            return jnp.clip((x + 1) / 2, 0, 1)

        return jax.jit(decode)
