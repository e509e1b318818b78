# SPDX-License-Identifier: Apache-2.0
"""Draw images from a trained model to files: a grid, single PNGs or an .npz."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jdit import policies, solvers
from jdit.data import to_uint8
from jdit.guidance import CFG
from jdit.objects import from_text
from jdit.parallel import Mesh, Plan, Rules, Spread, arrange, pinned
from jdit.pretrained import Pretrained, exported, load
from jdit.recipe import Sampling
from jdit.sample import sample
from jdit.typing import Params


@dataclass(frozen=True)
class Sample:
    """Draw images from a trained recipe, an exported folder or a shipped model."""

    labels: tuple[str, ...] = ()
    """Classes to draw, by number or by name; every class if not given."""
    prompt: tuple[str, ...] = ()
    """Texts to draw, where the name is a pipeline's (a folder, or owner/name), or of a
    model that was trained on captions."""
    encoder: Path | None = None
    """The folder of the text encoder of a model that was trained on captions."""
    negative: str = ""
    """What prompts are guided away from."""
    size: tuple[int, ...] | None = None
    """Height and width in pixels of a pipeline's images, or frames, height and width of
    its videos; its own if not given."""
    fps: float = 8.0
    """Frames a second of videos."""
    count: int = 1
    """Images for each label or prompt."""
    seed: int = 0
    """Image i depends on the seed and on i alone."""
    steps: int | None = None
    """Steps of the solver; the recipe's if not given."""
    solver: str | None = None
    """A solver of jdit.solvers by its name, e.g. Heun; the recipe's if not given."""
    guidance: float | None = None
    """Scale of classifier-free guidance (1 is none); the recipe's if not given."""
    interval: tuple[float, float] | None = None
    """Times between which guidance acts, of 0 (data) to 1 (noise)."""
    policy: str | None = None
    """Which branches are computed at which step, as it is written: "Reuse(3)",
    "Forecast(4, order=2)" or "Always()"; the recipe's if not given."""
    batch: int = 64
    """Images drawn at once."""
    out: Path = Path("samples.png")
    """A .png (a grid, a row a label), an .npz (x_0 and label), or a folder of PNGs. A
    video is a .webp, .gif or .png; several are a folder of .webp."""
    folder: str | None = None
    """The run of the recipe, where it is not runs/NAME; gs://BUCKET/RUN too."""
    mesh: Mesh = Mesh()
    """How many devices each axis of parallelism has; the recipe's if not given."""
    sharding: Rules = Rules()
    """What the mesh's axes split; the recipe's if not given."""


def numbers(labels: tuple[str, ...], classes: int, names: tuple | None) -> np.ndarray:
    """Class numbers, from numbers or names as a person types them."""
    if not labels:
        return np.arange(classes, dtype=np.int32)
    found = []
    for label in labels:
        if names and label in names:
            found.append(names.index(label))
        elif label.lstrip("-").isdigit() and 0 <= int(label) < classes:
            found.append(int(label))
        else:
            known = f" or one of {', '.join(map(str, names[:8]))}, ..." if names else ""
            raise ValueError(
                f"label {label!r} is out of range: this model knows 0 to "
                f"{classes - 1}{known}"
            )
    return np.asarray(found, np.int32)


def changed(sampling: Sampling, options: Sample) -> Sampling:
    """The recipe's sampling with the command line's choices."""
    if options.steps is not None:
        sampling = replace(sampling, steps=options.steps)
    if options.solver is not None:
        known = {
            name: part
            for name in solvers.__all__
            if hasattr(part := getattr(solvers, name), "evaluations")
            and name != "Solver"
        }
        if options.solver not in known:
            raise ValueError(
                f"solver is {options.solver!r}, but it must be one of "
                f"{', '.join(sorted(known))}"
            )
        sampling = replace(sampling, solver=known[options.solver]())
    if options.guidance is not None:
        old = sampling.guidance if isinstance(sampling.guidance, CFG) else CFG()
        scale = options.guidance
        guidance = None if scale == 1 else replace(old, scale=scale)
        sampling = replace(sampling, guidance=guidance)
    if options.interval is not None:
        if not isinstance(sampling.guidance, CFG):
            raise ValueError("interval needs guidance: give --guidance a scale above 1")
        guidance = replace(sampling.guidance, interval=options.interval)
        sampling = replace(sampling, guidance=guidance)
    if options.policy is not None:
        made = {n: getattr(policies, n) for n in policies.__all__}
        made = {n: part for n, part in made.items() if hasattr(part, "apply")}
        sampling = replace(sampling, policy=from_text(options.policy, made, "policy"))
    return sampling


def by_label(labels: np.ndarray) -> dict[str, Any]:
    """What a class-conditional model is told."""
    return {"label": labels}


class Drawer:
    """Draws any number of images by one compiled function of a fixed batch.

    told: what the model is told of the labels it is called with.
    plan: of many devices: where parameters go, and over which the batch is split.

    Raises ValueError for a batch that the plan cannot split.
    """

    def __init__(
        self,
        model: Any,
        params: Params,
        process: Any,
        sampling: Sampling,
        batch: int,
        told: Callable[[np.ndarray], dict[str, Any]] = by_label,
        plan: Plan | None = None,
    ) -> None:
        self.batch, self.told, self.plan = batch, told, plan
        guidance, places = sampling.guidance, None
        if plan is not None:
            if batch % plan.parts:
                raise ValueError(
                    f"batch is {batch}, but it is split over {plan.parts} devices: "
                    f"make it a multiple, such as {plan.round_up(batch)}"
                )
            model, guidance = pinned(plan, model), Spread(plan, guidance)
            places = plan.tree(params, params)
        self.params = jax.device_put(params, places)

        def run(params: Params, key: jax.Array, conditions: Any, first: jax.Array):
            return sample(
                key,
                model,
                params,
                conditions,
                process=process,
                steps=sampling.steps,
                solver=sampling.solver,
                grid=sampling.grid,
                guidance=guidance,
                policy=sampling.policy,
                first=first,
            )

        rows = None if plan is None else plan.batch
        self.run = jax.jit(run, out_shardings=rows)

    def __call__(self, seed: int, labels: np.ndarray, first: int = 0) -> np.ndarray:
        """float32 images for the labels; image i depends on (seed, i, label i).

        first: the number of the first one.
        """
        key, images = jax.random.key(seed), []
        for start in range(0, len(labels), self.batch):
            part = np.asarray(labels[start : start + self.batch], np.int32)
            padded = np.pad(part, (0, self.batch - len(part)), mode="edge")
            conditions = self.told(padded)
            if self.plan is None:
                conditions = jax.tree.map(jnp.asarray, conditions)
            else:
                conditions = self.plan.place(conditions)
            x = self.run(self.params, key, conditions, jnp.asarray(first + start))
            images.append(np.asarray(x)[: len(part)])
        return np.concatenate(images)


def grid(images: np.ndarray, columns: int, pixels: int = 512) -> Image.Image:
    """Images `b h w c` in [-1, 1] as one picture, whole-number enlarged."""
    x = to_uint8(images)
    rows = -(-len(x) // columns)
    x = np.pad(
        x, ((0, rows * columns - len(x)), (1, 1), (1, 1), (0, 0)), mode="constant"
    )
    _, h, w, c = x.shape
    x = (
        x.reshape(rows, columns, h, w, c)
        .swapaxes(1, 2)
        .reshape(rows * h, columns * w, c)
    )
    picture = Image.fromarray(x[..., 0] if c == 1 else x)
    scale = max(1, pixels // max(picture.size))
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.NEAREST)


def write(out: Path, images: np.ndarray, labels: np.ndarray, columns: int) -> Path:
    """Write images as a grid, an .npz or single PNGs, whichever the path says."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        grid(images, columns).save(out)
    elif out.suffix == ".npz":
        np.savez(out, x_0=images, label=labels)
    elif not out.suffix:
        out.mkdir(exist_ok=True)
        for i, (x, label) in enumerate(zip(to_uint8(images), labels, strict=True)):
            picture = Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)
            picture.save(out / f"{i:05d}-{label}.png")
    else:
        raise ValueError(
            f"out is {out}, but it must end in .png (a grid) or .npz, or be a folder"
        )
    return out


def write_videos(out: Path, videos: np.ndarray, labels: np.ndarray, fps: float) -> Path:
    """Write videos `b t h w c` in [-1, 1]: one to a file, or several to a folder.

    Raises ValueError for several videos and one file.
    """
    from jdit.pipelines import save_video, to_images

    if out.suffix == ".npz":
        return write(out, videos, labels, 1)
    if out.suffix and len(videos) > 1:
        raise ValueError(
            f"out is {out}, but there are {len(videos)} videos: give a folder, without "
            "an ending, or an .npz"
        )
    (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
    drawn = to_images((videos + 1) / 2)
    for i, (frames, label) in enumerate(zip(drawn, labels, strict=True)):
        name = out if out.suffix else out / f"{i:05d}-{label}.webp"
        save_video(name, frames, fps=fps)
    return out


def _draw_prompts(name: str, options: Sample) -> Path:
    """What a pipeline makes of prompts."""
    from jdit.pipelines import captioned, pipeline

    if exported(name) is not None or options.encoder is not None:
        made = captioned(name, options.encoder)
    else:
        made = pipeline(name)
    images = made(
        options.prompt,
        negative=options.negative,
        seed=options.seed,
        count=options.count,
        steps=options.steps,
        guidance=options.guidance,
        size=options.size,
        output="array",
    )
    numbers = np.repeat(np.arange(len(options.prompt)), options.count)
    columns = options.count if options.count > 1 else min(len(images), 10)
    x = 2 * np.asarray(images) - 1
    if x.ndim == 5:
        return write_videos(options.out, x, numbers, options.fps)
    return write(options.out, x, numbers, columns)


def draw(name: str, options: Sample) -> Path:
    """Draw what is asked for; `name` is a recipe, a folder or a shipped model."""
    if options.count < 1:
        raise ValueError(f"count is {options.count}, but it must be at least 1")
    if options.prompt:
        if options.mesh != Mesh():
            raise ValueError(
                "mesh is given, but texts are drawn on a single device: give labels, "
                "or leave it out"
            )
        return _draw_prompts(str(options.folder or name), options)
    parts, devices = (options.mesh, options.sharding), jax.local_devices()
    plan = arrange(*parts, devices=devices)
    place = None if plan is None else plan.sharding
    loaded: Pretrained = load(options.folder or name, sharding=place)
    arrange(*parts, model=loaded.model, devices=devices)  # its heads must fit
    classes = getattr(loaded.model.conditioning, "classes", None)
    if classes is None:
        raise ValueError(f"{name} is not told by labels: give --prompt texts to draw")
    labels = numbers(options.labels, classes, loaded.classes)
    labels = np.repeat(labels, options.count)
    sampling = changed(loaded.sampling or Sampling(), options)
    batch = min(options.batch, len(labels))
    batch = batch if plan is None else plan.round_up(batch)
    own = loaded.model, loaded.params, loaded.process
    drawer = Drawer(*own, sampling, batch, plan=plan)
    images = drawer(options.seed, labels)
    if images.ndim == 5:
        return write_videos(options.out, images, labels, options.fps)
    columns = options.count if options.count > 1 else min(len(labels), 10)
    return write(options.out, images, labels, columns)
