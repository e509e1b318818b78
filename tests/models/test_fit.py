# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from album import ALBUM, draw
from models.counting import count, shape_of_prediction

import jdit
from jdit.guidance import CFG
from jdit.models import FIT, DiT, fit
from jdit.models.fit import SignalPower
from jdit.objectives import SelfConditioned, loss
from jdit.processes import GVP, Gaussian, VPCosine
from jdit.recipe import load_recipe
from jdit.wrappers import Carried

MODEL, TOLD = ALBUM["fit"].model, ALBUM["fit"].conditions
LABEL = {"label": TOLD["label"]}
PROCESS = Gaussian(VPCosine(2e-4), "noise")
X, TIME = draw(2, *MODEL.sample_shape), jnp.array([0.3, 0.8])


@pytest.fixture(scope="module")
def params():
    """Weights under which latents that are carried matter, as they do not at first."""
    start = jax.device_get(jax.jit(MODEL.init)(jax.random.key(0)))
    rng = np.random.default_rng(1)
    move = lambda w: w + 0.1 * rng.normal(size=w.shape).astype("f")  # noqa: E731
    return jax.device_put(jax.tree.map(move, start))


def test_the_size_has_the_parameters_of_the_published_code():
    """Counted on the published module, built at the same widths."""
    assert count(fit()) == 203_100_864


def test_the_clock_is_the_power_of_the_signal():
    want = 1000 * np.cos(np.pi / 2 * np.array([0, 0.25, 1])) ** 2
    got = SignalPower(GVP())(jnp.array([0, 0.25, 1]))
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_windows_meet_through_their_latents_alone(params):
    """Local layers keep to a window; after a write all windows know of all others."""
    run = jax.jit(MODEL.apply)
    other = X.at[:, 4:, 8:].add(1.0)  # the last of 2 x 3 windows
    before, after = (run(params, x, TIME, TOLD).taps for x in (X, other))
    changed = [
        np.abs(before[stage][-1] - after[stage][-1]).reshape(2, 6, -1).max((0, 2)) > 0
        for stage in ("local_0_blocks", "read_0_blocks", "write_0_blocks")
    ]
    assert changed[0].tolist() == changed[1].tolist() == [False] * 5 + [True]
    assert changed[2].all()


def test_latents_are_carried_from_step_to_step(params):
    """Two evaluations by hand are the wrapper's."""
    run = jax.jit(MODEL.apply)
    network = jdit.denoise.Network(MODEL, params, PROCESS)
    denoiser = Carried()(network)
    memory = denoiser.init(X, LABEL)
    assert not np.any(memory.latents)
    for step in range(2):
        time = TIME[step]
        given = {**LABEL, "latents": memory.latents}
        out = run(params, X, jnp.full(2, time), given)
        got, memory = denoiser(X, time, LABEL, memory, jnp.asarray(step))
        want = PROCESS.predict(out.prediction, X, time)
        np.testing.assert_allclose(got.noise, want.noise, atol=1e-5)
        left = out.taps[MODEL.carried][-1]
        np.testing.assert_allclose(memory.latents, left, atol=1e-5)
    alone = run(params, X, jnp.full(2, TIME[1]), LABEL).prediction
    assert np.abs(alone - out.prediction).max() > 1e-3


@pytest.mark.parametrize("rate", [0.0, 1.0], ids=["never", "always"])
def test_training_tells_latents_at_their_rate(params, rate):
    """Never told is the plain loss; told, the gradient is of the second pass alone."""
    told = []

    class Watched(FIT):
        def apply(self, params, x_t, time, conditions, **more):
            told.append(conditions.get("latents"))
            return super().apply(params, x_t, time, conditions, **more)

    model = Watched(**vars(replace(MODEL, conditioning=None)))
    objective = SelfConditioned(model.carried, rate=rate)
    batch = {"x_0": X}
    value, _ = loss(
        jax.random.key(0), model, params, batch, process=PROCESS, objective=objective
    )
    assert np.isfinite(value) and told[0] is None
    assert np.any(told[1]) == bool(rate)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(groups=(3, 4)), "groups is .3, 4., but it must divide"),
        (dict(heads=7), "not multiples of heads 7"),
        (dict(latent_dim=20, latent_heads=2, dim=18, heads=9), "20 not of 8"),
        (dict(layers=((1, 0), (1, 1))), "only the last of several"),
        (dict(layers=()), "must hold pairs"),
    ],
    ids=["groups", "heads", "latent-dim", "layers", "no-layers"],
)
def test_bad_fields_say_so(change, words):
    with pytest.raises(ValueError, match=words):
        FIT(**change)


def test_what_cannot_be_carried_says_so(params, unchecked):
    with pytest.raises(ValueError, match=r"conditions\['latents'\] has shape"):
        MODEL.apply(params, X, TIME, {**TOLD, "latents": draw(2, 3, 24)})
    with pytest.raises(ValueError, match="wraps the Network of a model with latents"):
        Carried()(jdit.denoise.Network(DiT(), {}, PROCESS))
    with pytest.raises(ValueError, match="wraps the Network"):
        Carried()(CFG(2.0)(jdit.denoise.Network(MODEL, {}, PROCESS)))
    with pytest.raises(ValueError, match="rate is 2"):
        SelfConditioned("blocks", rate=2)
    objective = SelfConditioned("blocks")
    given = dict(process=PROCESS, objective=objective)
    with pytest.raises(ValueError, match="'blocks', but the network has"):
        loss(jax.random.key(0), MODEL, params, {"x_0": X, **LABEL}, **given)


def test_the_recipe_runs_at_full_size():
    model = load_recipe("fit").model
    label = {"label": ((), np.int32)}
    assert shape_of_prediction(model, label) == (2, 256, 256, 3)
