# SPDX-License-Identifier: Apache-2.0
"""Wrappers of the denoiser: neutral where they should be, and no call too many."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdit.conditioning import Labels
from jdit.denoise import Network
from jdit.guidance import CFG, Autoguidance
from jdit.models import DiT
from jdit.processes import Gaussian, Linear, Prediction
from jdit.sample import image_keys, integrate
from jdit.solvers import Euler, Heun, Uniform

PROCESS = Gaussian(Linear(), "velocity")
NULL = 10


@dataclass(frozen=True)
class Toy:
    """A denoiser whose x_0 depends on x and label, and whose memory counts.

    "calls" and "images" have no batch axis; "sum", with the batch on its second axis,
    and "tokens", with two rows per image, remember each image's own labels.
    """

    bias: float = 0.0
    process: Gaussian = PROCESS

    def init(self, x_t, conditions):
        zero = jnp.zeros((), jnp.int32)
        return {
            "calls": zero,
            "images": zero,
            "sum": jnp.zeros((3, len(x_t))),
            "tokens": jnp.zeros((2 * len(x_t), 5)),
        }

    def null(self, conditions):
        return {"label": jnp.full_like(conditions["label"], NULL)}

    def __call__(self, x_t, time, conditions, memory, evaluation):
        label = conditions["label"].astype(jnp.float32)
        shape = (-1,) + (1,) * (x_t.ndim - 1)
        x_0 = jnp.sin(label.reshape(shape) + jnp.arange(x_t.shape[-1])) + self.bias
        x_0 = x_0 + 0.1 * x_t
        memory = {
            "calls": memory["calls"] + 1,
            "images": memory["images"] + len(x_t),
            "sum": memory["sum"] + label,
            "tokens": memory["tokens"] + jnp.repeat(label, 2)[:, None],
        }
        prediction = self.process.solve(x_0, x_t, time, source="x_0")
        variance = jnp.broadcast_to(label.reshape(shape), x_t.shape)
        return prediction._replace(variance=variance), memory


X = jax.random.normal(jax.random.key(0), (4, 3, 3, 4))
LABELS = {"label": jnp.asarray([1, 2, 3, 4])}
TIME = jnp.asarray(0.6)


def call(denoiser, time=TIME, memory=None):
    memory = denoiser.init(X, LABELS) if memory is None else memory
    return denoiser(X, time, LABELS, memory, jnp.asarray(0))


def close(one: Prediction, two: Prediction, atol=1e-5):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def consistent(prediction, time=TIME):
    """x_0 and noise still make up x_t."""
    at = PROCESS.path(time)
    mixed = at.alpha * prediction.x_0 + at.sigma * prediction.noise
    np.testing.assert_allclose(mixed, X, atol=1e-4)


NEUTRAL = [
    CFG(1.0),
    CFG(jnp.asarray(1.0)),
    CFG(jnp.ones(4), rescale=0.7),
    CFG(4.0, interval=(0.7, 0.9)),
    Autoguidance(Toy(), scale=3.0),
    Autoguidance(Toy(1.0), scale=1.0),
    Autoguidance(Toy(1.0), scale=jnp.asarray(1.0)),
    Autoguidance(Toy(1.0), interval=(0.0, 0.6 - 1e-3)),
]


@pytest.mark.parametrize("wrapper", NEUTRAL, ids=range(len(NEUTRAL)))
def test_identity_at_the_neutral_setting(wrapper):
    plain, _ = call(Toy())
    guided, _ = call(wrapper(Toy()))
    close(plain, guided)


def test_scale_one_costs_nothing():
    denoiser = Toy()
    assert CFG(1.0)(denoiser) is denoiser
    assert Autoguidance(Toy(1.0), 1.0)(denoiser) is denoiser


@pytest.mark.parametrize("scale", [0.0, 4.0, jnp.asarray([0.0, 1.0, 2.0, 8.0])])
def test_cfg_is_the_published_combination(scale):
    guided, memory = call(CFG(scale)(Toy()))
    yes, _ = call(Toy())
    no, _ = Toy()(X, TIME, Toy().null(LABELS), Toy().init(X, LABELS), 0)
    factor = jnp.reshape(scale, (-1, 1, 1, 1))
    np.testing.assert_allclose(
        guided.x_0, no.x_0 + factor * (yes.x_0 - no.x_0), atol=1e-5
    )
    np.testing.assert_allclose(
        guided.noise, no.noise + factor * (yes.noise - no.noise), atol=1e-5
    )
    np.testing.assert_array_equal(guided.variance, yes.variance)
    assert memory["calls"] == 1 and memory["images"] == 8
    consistent(guided)


def test_channels():
    """DiT's published samples: 3 of 4 latent channels are guided."""
    guided, _ = call(CFG(4.0, channels=3)(Toy()))
    full, _ = call(CFG(4.0)(Toy()))
    yes, _ = call(Toy())
    np.testing.assert_allclose(guided.x_0[..., :3], full.x_0[..., :3], atol=1e-6)
    np.testing.assert_allclose(guided.x_0[..., 3:], yes.x_0[..., 3:], atol=1e-6)
    consistent(guided)


@pytest.mark.parametrize("target", ["velocity", "x_0", "noise"])
def test_rescale(target):
    """Lin et al. (2024), equations 15 and 16, on what the network predicts."""
    process = Gaussian(Linear(), target)
    toy = Toy(process=process)
    yes, _ = call(toy)
    full, _ = call(CFG(6.0)(toy))

    def express(prediction):
        return np.asarray(process.express(prediction, TIME, to=target), np.float64)

    pos, cfg = express(yes), express(full)
    ratio = pos.std(axis=(1, 2, 3)) / cfg.std(axis=(1, 2, 3))
    rescaled = cfg * ratio[:, None, None, None]
    for phi in (0.7, jnp.asarray(0.7), 1.0):
        guided, _ = call(CFG(6.0, rescale=phi)(toy))
        expected = float(phi) * rescaled + (1 - float(phi)) * cfg
        np.testing.assert_allclose(express(guided), expected, atol=1e-4)
        consistent(guided)
        np.testing.assert_array_equal(guided.variance, yes.variance)


def test_autoguidance():
    guided, (strong, weak) = call(Autoguidance(Toy(0.5), 3.0)(Toy()))
    good, _ = call(Toy())
    bad, _ = call(Toy(0.5))
    np.testing.assert_allclose(
        guided.x_0, bad.x_0 + 3 * (good.x_0 - bad.x_0), atol=1e-5
    )
    assert strong["images"] == weak["images"] == 4
    consistent(guided)


@pytest.mark.parametrize("jit", [True, False])
def test_interval_skips_the_unconditional_half(jit):
    """Inside, 8 images in one call; outside, 4 in one call, and its own memory."""
    guided = CFG(4.0, interval=(0.3, 0.5))(Toy())
    act = jax.jit(guided) if jit else guided
    memory = guided.init(X, LABELS)
    shapes = jax.tree.map(lambda m: (m.shape, m.dtype), memory)
    images, plain = 0, Toy()
    for time, inside in [(0.6, 0), (0.5, 1), (0.4, 1), (0.3, 0), (0.1, 0)]:
        time = jnp.asarray(time)
        prediction, memory = act(X, time, LABELS, memory, jnp.asarray(0))
        images += 8 if inside else 4
        expected, _ = call(CFG(4.0)(plain) if inside else plain, time)
        close(prediction, expected)
        assert memory["images"] == images
    assert memory["calls"] == 5
    assert jax.tree.map(lambda m: (m.shape, m.dtype), memory) == shapes
    # Each image's own rows were written: 5 times its label.
    own = 5.0 * np.asarray(LABELS["label"])
    np.testing.assert_allclose(memory["sum"][:, 0::2], np.tile(own, (3, 1)))
    np.testing.assert_allclose(
        memory["tokens"].reshape(4, 2, 2, 5)[:, 0],
        np.tile(own[:, None, None], (1, 2, 5)),
    )


def test_interval_leaves_the_null_half_something_to_reuse():
    """Outside the interval its rows follow the conditional ones."""
    guided = CFG(4.0, interval=(0.3, 0.5))(Toy())
    _, memory = call(guided, jnp.asarray(0.9))
    np.testing.assert_array_equal(memory["sum"][:, 0::2], memory["sum"][:, 1::2])


def test_interval_of_autoguidance_skips_the_weak_model():
    guided = Autoguidance(Toy(0.5), 3.0, interval=(0.3, 0.5))(Toy())
    _, memory = call(guided, jnp.asarray(0.9))
    _, memory = call(guided, jnp.asarray(0.4), memory)
    assert memory[0]["images"] == 8 and memory[1]["images"] == 4


def test_guidance_composes():
    """CFG around autoguidance, and around CFG, with an interval and a memory."""
    both = CFG(3.0, interval=(0.3, 0.9))(Autoguidance(Toy(0.5), 2.0)(Toy()))
    guided, memory = call(both)
    auto = Autoguidance(Toy(0.5), 2.0)(Toy())
    yes, _ = call(auto)
    no, _ = auto(X, TIME, Toy().null(LABELS), auto.init(X, LABELS), 0)
    np.testing.assert_allclose(guided.x_0, no.x_0 + 3 * (yes.x_0 - no.x_0), atol=1e-5)
    assert memory[0]["images"] == memory[1]["images"] == 8

    nested = CFG(3.0, interval=(0.3, 0.5))(CFG(2.0)(Toy()))
    outside, memory = call(nested)
    close(outside, call(CFG(2.0)(Toy()))[0])
    own = np.asarray(LABELS["label"], np.float32)
    np.testing.assert_array_equal(memory["sum"][0, 0::4], own)
    np.testing.assert_array_equal(memory["sum"][0, 1::4], np.full(4, NULL))


@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_network_under_guidance_and_a_policy_with_memory(solver):
    """A real network in the sampling scan: out of every interval it is the plain one,
    in an interval that holds all times it is guided throughout."""

    @dataclass(frozen=True)
    class Remember:
        """Adds a little of the last output of the branch: a policy with memory."""

        def parameters(self, key, delta):
            return {}

        def init(self, delta):
            return jnp.zeros(delta.shape, delta.dtype)

        def apply(self, branch, stream, context, memory, site, params):
            output = branch(stream, branch.weights)
            return branch.merge(stream, output + 0.3 * memory), output

    model = DiT((4, 4), 1, dim=16, depth=2, heads=2, conditioning=Labels(4))
    params = model.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        x + 0.1 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    network = Network(model, jax.tree.unflatten(tree, leaves), PROCESS, Remember())
    x = jax.random.normal(jax.random.key(2), (2, 4, 4, 1))
    conditions = {"label": jnp.asarray([0, 3])}

    def draw(denoiser):
        times, noise = Uniform()(PROCESS, 3), image_keys(jax.random.key(0), 2)
        return jax.jit(
            lambda x: integrate(denoiser, PROCESS, x, conditions, times, solver, noise)
        )(x)

    never, always = CFG(3.0, interval=(2.0, 3.0)), CFG(3.0, interval=(-1.0, 1.0))
    np.testing.assert_allclose(draw(never(network)), draw(network), atol=1e-5)
    guided = draw(CFG(3.0)(network))
    np.testing.assert_allclose(draw(always(network)), guided, atol=1e-5)
    assert not np.allclose(guided, draw(network), atol=1e-3)


def test_scale_may_be_traced_and_differentiated():
    def out(scale):
        return call(CFG(scale, interval=(0.0, 1.0))(Toy()))[0].x_0.sum()

    assert jnp.isfinite(jax.jit(jax.grad(out))(2.0))
    assert jax.jit(out)(1.0) == pytest.approx(float(call(Toy())[0].x_0.sum()), abs=1e-3)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CFG(interval=(0.5, 0.2)), "interval is .* low must be below high"),
        (lambda: CFG(interval=(0.5,)), "interval is .* must be .low, high."),
        (lambda: CFG(rescale=1.5), "rescale is 1.5"),
        (lambda: CFG(channels=0), "channels is 0"),
        (lambda: call(CFG(jnp.ones(3))(Toy())), r"scale has shape \(3,\)"),
        (
            lambda: call(CFG(2.0)(Autoguidance(Toy(1.0), 2 * jnp.ones(4))(Toy()))),
            r"one for each of the 8 images",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_interval_refuses_a_memory_without_a_batch_axis_of_its_own():
    @dataclass(frozen=True)
    class Square(Toy):
        def init(self, x_t, conditions):
            return {"gram": jnp.zeros((len(x_t), len(x_t)))}

    with pytest.raises(ValueError, match="one batch axis per leaf"):
        call(CFG(2.0, interval=(0.0, 1.0))(Square()))


def test_conditions_may_be_arrays_of_the_host():
    labels = {"label": np.asarray([1, 2, 3, 4])}
    guided = CFG(4.0)(Toy())
    act = jax.jit(lambda x: guided(x, TIME, labels, guided.init(x, labels), 0)[0])
    close(act(X), call(guided)[0])


def test_parts_are_their_own_config():
    assert replace(CFG(4.0), scale=2.0) == CFG(2.0)
