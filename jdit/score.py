# SPDX-License-Identifier: Apache-2.0
"""Score images against a reference file, with the protocol that the score is of."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from jdit.evals.adm import adm_scores
from jdit.evals.against import Against
from jdit.evals.clip_features import clip_score
from jdit.evals.drawn import Drawn
from jdit.evals.images import Stored
from jdit.evals.kernel import kernel_distance, squared_mmd
from jdit.evals.manifold import density_coverage, precision_recall
from jdit.evals.meter import Measured
from jdit.evals.model import drawn_by
from jdit.evals.nets import feature_net, net_fields
from jdit.evals.pairs import Difference, Pairs
from jdit.evals.parts import joined, measure_in
from jdit.evals.protocol import (
    Protocol,
    differences,
    line,
    machine_fields,
    part_hash,
)
from jdit.evals.references import images_of, known, reference_at, reference_run, size_of
from jdit.evals.statistics import frechet_distance
from jdit.parallel import Mesh, Plan, Rules, arrange, barrier, first
from jdit.pretrained import Pretrained
from jdit.recipe import Recipe, Sampling
from jdit.train.partial import model_of
from jdit.train.report import trained
from jdit.typing import Params

Scores = dict[str, float]


def score(
    source: Drawn | Stored,
    protocol: Protocol,
    options: Against,
    *,
    root: Path,
    batch: int = 64,
    about: dict[str, Any] | None = None,
) -> Path:
    """Stream images through the feature net, compare, and write scores.json.

    Without a reference, but with prompts, only the CLIP score is made; with a paired
    run, PSNR and its kin (`jdit.evals.pairs`). Stopped and started again with the same
    options it goes on where it was, and ends with the same score. It is kept in
    `options.out`, or in a folder of `root` that is named after the protocol; a score
    that is there already is not made again. Several processes, which must share that
    folder, each draw and read their share; the first one joins them.

    protocol: the source's fields. about: what the file says beside the protocol.

    Raises ValueError where `options.out` holds another protocol's, and for references
    of another feature net or size, or paired runs of another number.
    """
    if options.paired is not None:
        return _paired(source, protocol, options, root, batch, about)
    if options.reference is None and options.prompts is None:
        raise ValueError("reference is missing: give --reference FILE")
    given = options.reference
    reference = None if given is None else reference_at(given)
    net = feature_net(options.features, options.weights, options.resize)
    asked = None
    if options.prompts is not None:
        asked = prompts_of(options.prompts, source.count, net)
    protocol = {
        **protocol,
        "count": source.count,
        "size": size_of(source.shape),
        **net_fields(net),
        "reference": None if reference is None else reference.hash(),
        **({} if asked is None else {"prompts": part_hash(asked)}),
        **machine_fields(),
    }
    sets: dict[str, Any] = {"samples": source}
    if reference is not None:
        images = images_of(reference, protocol, hasattr(net, "all"))
        sets |= {} if images is None else {"reference": images}

    def scores(folder: Path, fake: Measured, real: Measured | None = None) -> Scores:
        marks = {name: str(protocol[name]) for name in ("features_hash", "size")}
        fake.save(folder / "statistics.npz", **marks)
        made: Scores = {}
        if reference is not None:
            made = scores_of(fake, known(reference, real), net)
        if asked is not None:
            assert fake.features is not None
            made["clip_score"] = clip_score(fake.features, net.texts(asked))
        return made

    about = (about or {}) | {"reference": str(given)}
    return _kept(sets, net, protocol, scores, options, root, batch, about)


def _paired(
    source: Drawn | Stored,
    protocol: Protocol,
    options: Against,
    root: Path,
    batch: int,
    about: dict[str, Any] | None,
) -> Path:
    """Compare image by image with a reference run, and write scores.json."""
    assert options.paired is not None
    for name in ("reference", "prompts"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"paired and {name} are both given: --paired compares image by image, "
                "in a run of its own"
            )
    pairs = Pairs(source, reference_run(options.paired))
    net = Difference(pairs, options.lpips)
    protocol = {
        **protocol,
        "count": source.count,
        "size": size_of(source.shape),
        **net.fields,
        "paired": pairs.reference.hash(),
        **machine_fields(),
    }

    def scores(folder: Path, measured: Measured) -> Scores:
        return net.scores(measured)

    about = (about or {}) | {"paired": str(options.paired)}
    sets = {"pairs": pairs}
    return _kept(sets, net, protocol, scores, options, root, batch, about)


def _kept(
    sets: dict[str, Any],
    net: Any,
    protocol: Protocol,
    scores: Callable[..., Scores],
    options: Against,
    root: Path,
    batch: int,
    about: dict[str, Any],
) -> Path:
    """Measure sets of images, and write the scores that are made of what was measured.

    scores: given the folder and each set's `Measured`; the first process makes them.
    """
    folder = options.out or root / f"eval-{part_hash(protocol)}"
    result, state = folder / "scores.json", folder / "partial"
    if done(folder, protocol):
        return result
    began, samples = time.time(), sets.get("samples")
    if isinstance(samples, Drawn):  # what the net refuses, before anything is drawn
        blank = np.zeros((_rows(samples, batch), *samples.shape), np.float32)
        getattr(net, "all", net)(blank)
    failed: list[ValueError] = []
    for name, images in sets.items():
        try:
            with _bar(name) as seen:
                measure_in(
                    state / name,
                    images,
                    net,
                    batch=64 if name == "reference" else batch,
                    rows=_rows(images, batch),
                    part=options.part,
                    seen=seen,
                )
        except ValueError as error:
            failed.append(error)
            if jax.process_count() == 1:
                raise
    barrier("measured")  # where the others would wait for one that failed, too
    try:
        if failed:
            raise failed[0]
        if first():
            found = (joined(state / name, x.count) for name, x in sets.items())
            made = scores(folder, *found)
            about |= {
                "batch": batch,
                "devices": jax.device_count(),
                "processes": jax.process_count(),
                "seconds_since_last_start": round(time.time() - began, 1),
            }
            _write(result, {"scores": made, "protocol": protocol, "about": about})
            shutil.rmtree(state)
    finally:
        barrier("scored")
    return result


def score_recipe(recipe: Recipe, folder: Path, options: Against) -> Path:
    """Draw from a recipe's run in `folder`, and score it there."""
    data = getattr(recipe.evaluation, "dataset", recipe.data)
    plan = _plan(recipe.mesh, recipe.sharding, recipe.model)
    params, sampling = trained(recipe, folder, plan), recipe.sampling
    parts = model_of(recipe), params, recipe.process, sampling
    return _drawn(*parts, options, folder, data, {"model": recipe.name}, plan)


def score_model(
    loaded: Pretrained,
    sampling: Sampling,
    options: Against,
    name: str,
    mesh: Mesh | None = None,
    sharding: Rules | None = None,
) -> Path:
    """Draw from a trained model, and score it in runs/eval/NAME."""
    plan = _plan(mesh or Mesh(), sharding or Rules(), loaded.model)
    root = Path("runs") / "eval" / Path(name).stem
    parts = loaded.model, loaded.params, loaded.process, sampling
    return _drawn(*parts, options, root, None, {"model": name}, plan)


def _plan(mesh: Mesh, sharding: Rules, model: Any) -> Plan | None:
    """Of this process's devices. A mesh of several processes is that of training."""
    if jax.process_count() > 1:
        mesh = Mesh(data=1, fsdp=-1)
    return arrange(mesh, sharding, model=model, devices=jax.local_devices())


def _drawn(
    model: Any,
    params: Params,
    process: Any,
    sampling: Sampling,
    options: Against,
    root: Path,
    data: Any,
    about: dict[str, Any],
    plan: Plan | None,
) -> Path:
    source, protocol, batch = drawn_by(
        model,
        params,
        process,
        sampling,
        options.count,
        seed=options.seed,
        labels=options.labels,
        rounding=options.rounding,
        batch=options.batch,
        codec=options.codec,
        data=data,
        plan=plan,
    )
    return score(source, protocol, options, root=root, batch=batch, about=about)


def scores_of(fake: Measured, real: Measured, net: Any = None) -> dict[str, float]:
    """The scores that the net names (`scores`), ADM's for Inception's, else "frechet".

    Beside them, where the reference has features: precision and recall (k = 3), density
    and coverage (k = 5), and "kid": of 100 subsets of 1,000, or of whole sets if one
    has fewer.

    Raises ValueError for a reference that has nothing for any of them.
    """
    if hasattr(net, "scores"):
        scores = dict(net.scores(fake, real))
    elif net is None or hasattr(net, "all"):
        scores = adm_scores(fake, real)
    else:
        scores = {"frechet": frechet_distance(fake.pool, real.pool)}
    if fake.features is None or real.features is None:
        if not scores:
            raise ValueError(
                f"{type(net).__name__} compares features, but the reference has "
                "moments alone: give its images"
            )
        return scores
    sets = real.features, fake.features
    if "precision" not in scores:
        scores["precision"], scores["recall"] = precision_recall(*sets)
    scores["density"], scores["coverage"] = density_coverage(*sets)
    whole = min(map(len, sets)) < 1000
    scores["kid"] = squared_mmd(*sets) if whole else kernel_distance(*sets)[0]
    return scores


def prompts_of(path: Path, count: int, net: Any) -> list[str]:
    """The lines of a file of prompts, one an image.

    Raises ValueError for another number of lines, an empty one, and a feature net that
    reads no texts; FileNotFoundError.
    """
    if not hasattr(net, "texts"):
        raise ValueError(
            f"prompts are given, but {type(net).__name__} reads no texts: give "
            "--features CLIP"
        )
    if not path.is_file():
        raise FileNotFoundError(f"prompts is {path}, but there is no such file")
    lines = path.read_text("utf-8").splitlines()
    if len(lines) != count or not all(map(str.strip, lines)):
        raise ValueError(
            f"{path} has {sum(bool(line.strip()) for line in lines)} prompts on "
            f"{len(lines)} lines, but each of the {count} images needs one on its line"
        )
    return lines


def show(path: Path) -> str:
    """A file of scores as a person reads it: the scores, the protocol, the place."""
    content = json.loads(path.read_text("utf-8"))
    scores = ", ".join(f"{name} {x:.4g}" for name, x in content["scores"].items())
    return f"{scores}\n{line(content['protocol'])}\nwrote {path}"


def _rows(images: Any, batch: int) -> int:
    """Images, or videos `t h w c`, that the net sees at once, over all devices."""
    return min(batch, (4 if len(images.shape) == 4 else 64) * jax.local_device_count())


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on standard error, where that is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    shown = console.is_terminal and first()
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(name)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def done(folder: Path, protocol: Protocol) -> bool:
    """Whether a folder holds the score of this protocol; else it is begun, or goes on.

    Raises ValueError where it holds, or has begun, that of another one.
    """
    result, state = folder / "scores.json", folder / "partial" / "protocol.json"
    there = result.is_file()
    for path in (result, state):
        if path.is_file():
            content = json.loads(path.read_text("utf-8"))
            other = differences(content["protocol"], protocol)
            if other:
                raise ValueError(
                    f"{folder} holds the score of another protocol ({other[0]}): "
                    "delete it, or give another --out"
                )
    barrier("looked")
    if first() and not there:
        state.parent.mkdir(parents=True, exist_ok=True)
        _write(state, {"protocol": protocol})
    return there


def _write(path: Path, content: Any) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(part, path)
