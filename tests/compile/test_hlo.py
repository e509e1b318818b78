# SPDX-License-Identifier: Apache-2.0
"""Reading compiled programs: what a loop holds counts as often as it runs."""

import jax
import jax.numpy as jnp
import pytest

from jdit.compile.groups import group
from jdit.compile.hlo import parse, shapes, trips
from jdit.compile.kernels import Collective, kernels

LOOP = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_update (p.0: f32[6,64,128], p.1: f32[64,128], p.2: s32[]) -> f32[6,64,128] {
  %p.0 = f32[6,64,128]{2,1,0:T(8,128)} parameter(0)
  %p.1 = f32[64,128]{1,0:T(8,128)S(1)} parameter(1)
  %p.2 = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %row = f32[1,64,128]{2,1,0:T(8,128)} bitcast(%p.1)
  ROOT %put = f32[6,64,128]{2,1,0:T(8,128)} dynamic-update-slice(%p.0, %row, %p.2, /*index=3*/%zero, %zero)
}

%fused_product (q.0: f32[64,32], q.1: f32[6,32,128], q.2: s32[]) -> f32[64,128] {
  %q.0 = f32[64,32]{1,0:T(8,128)S(1)} parameter(0)
  %q.1 = f32[6,32,128]{2,1,0:T(8,128)} parameter(1)
  %q.2 = s32[]{:T(128)} parameter(2)
  %nil = s32[]{:T(128)} constant(0)
  %layer = f32[1,32,128]{2,1,0:T(8,128)} dynamic-slice(%q.1, %q.2, %nil, %nil), dynamic_slice_sizes={1,32,128}
  %flat = f32[32,128]{1,0:T(8,128)} bitcast(%layer)
  ROOT %product = f32[64,128]{1,0:T(8,128)S(1)} convolution(%q.0, %flat), dim_labels=bf_io->bf
}

%test (t: (s32[], f32[64,32], f32[6,32,128], f32[6,64,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  %t = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)S(1)}, f32[6,32,128]{2,1,0:T(8,128)}, f32[6,64,128]{2,1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

%body (u: (s32[], f32[64,32], f32[6,32,128], f32[6,64,128])) -> (s32[], f32[64,32], f32[6,32,128], f32[6,64,128]) {
  %u = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)S(1)}, f32[6,32,128]{2,1,0:T(8,128)}, f32[6,64,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%u), index=0
  %x = f32[64,32]{1,0:T(8,128)S(1)} get-tuple-element(%u), index=1
  %w = f32[6,32,128]{2,1,0:T(8,128)} get-tuple-element(%u), index=2
  %y = f32[6,64,128]{2,1,0:T(8,128)} get-tuple-element(%u), index=3
  %one = s32[]{:T(128)} constant(STEP)
  %next = s32[]{:T(128)} add(%i, %one)
  %dot = f32[64,128]{1,0:T(8,128)S(1)} fusion(%x, %w, %i), kind=kOutput, calls=%fused_product, backend_config={"estimated_cycles":"70"}
  %all = f32[64,128]{1,0:T(8,128)S(1)} all-reduce(%dot), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  %kept = f32[6,64,128]{2,1,0:T(8,128)} fusion(%y, %all, %i), kind=kLoop, calls=%fused_update
  ROOT %out = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)S(1)}, f32[6,32,128]{2,1,0:T(8,128)}, f32[6,64,128]{2,1,0:T(8,128)}) tuple(%next, %x, %w, %kept)
}

ENTRY %main (x.0: f32[64,32], w.0: f32[6,32,128], y.0: f32[6,64,128]) -> f32[6,64,128] {
  %x.0 = f32[64,32]{1,0:T(8,128)} parameter(0)
  %w.0 = f32[6,32,128]{2,1,0:T(8,128)} parameter(1)
  %y.0 = f32[6,64,128]{2,1,0:T(8,128)} parameter(2)
  %start = s32[]{:T(128)} constant(0)
  %zeroth = s32[]{:T(128)} copy(%start)
  %copy-start = (f32[64,32]{1,0:T(8,128)S(1)}, f32[64,32]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x.0)
  %copy-done = f32[64,32]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %carry = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)S(1)}, f32[6,32,128]{2,1,0:T(8,128)}, f32[6,64,128]{2,1,0:T(8,128)}) tuple(%zeroth, %copy-done, %w.0, %y.0)
  %while = (s32[]{:T(128)}, f32[64,32]{1,0:T(8,128)S(1)}, f32[6,32,128]{2,1,0:T(8,128)}, f32[6,64,128]{2,1,0:T(8,128)}) while(%carry), condition=%test, body=%body
  ROOT %last = f32[6,64,128]{2,1,0:T(8,128)} get-tuple-element(%while), index=3
}
"""  # noqa: E501
"""Six layers: a product with a slice of stacked weights, a sum over four chips, a write
into stacked results; the number of passes is only in the condition."""


def read(text: str, devices: int = 8) -> dict:
    return {kernel.name: kernel for kernel in kernels(parse(text), devices)}


@pytest.mark.parametrize("step, passes", [(1, 6), (2, 3), (4, 2)])
def test_a_loop_of_unwritten_length_is_counted_by_its_condition(step, passes):
    found = read(LOOP.replace("STEP", str(step)))
    assert found["dot"].times == found["all"].times == passes
    assert found["dot"].flops == 2 * 64 * 32 * 128
    assert not found["dot"].guessed and found["dot"].cycles == 70


def test_a_written_trip_count_is_believed():
    text = LOOP.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"11"}}'
    )
    assert read(text.replace("STEP", "1"))["all"].times == 11


def test_a_loop_of_unknown_length_is_counted_once_and_said():
    text = LOOP.replace("%zeroth = s32[]{:T(128)} copy(", "%zeroth = s32[] negate(")
    found = read(text.replace("STEP", "1"))
    assert found["dot"].times == 1 and found["dot"].guessed
    assert not found["copy-start"].guessed


def test_main_memory_is_read_and_written_by_slices_and_not_on_the_chip():
    found = read(LOOP.replace("STEP", "1"))
    row, layer = 4 * 64 * 128, 4 * 32 * 128
    index = 4
    assert found["dot"].bytes == layer + index  # x and the result stay on the chip
    assert found["kept"].bytes == row + index  # the stack is updated in place
    tiled = 4 * 64 * 128  # 32 columns lie in tiles of 128
    assert found["copy-start"].bytes == tiled and found["copy-start"].copy


def test_slices_are_found_in_fusions_of_fusions():
    outer = """%outer (o.0: f32[64,32], o.1: f32[6,32,128], o.2: s32[]) -> f32[64,128] {
  %o.0 = f32[64,32]{1,0:T(8,128)S(1)} parameter(0)
  %o.1 = f32[6,32,128]{2,1,0:T(8,128)} parameter(1)
  %o.2 = s32[]{:T(128)} parameter(2)
  ROOT %in = f32[64,128]{1,0:T(8,128)S(1)} fusion(%o.0, %o.1, %o.2), kind=kOutput, calls=%fused_product
}

%test (t"""  # noqa: E501
    text = LOOP.replace("STEP", "1").replace("%test (t", outer)
    text = text.replace(
        "(%x, %w, %i), kind=kOutput, calls=%fused_product", "(%x, %w, %i), calls=%outer"
    )  # noqa: E501
    plain, nested = read(LOOP.replace("STEP", "1"))["dot"], read(text)["dot"]
    assert "calls=%outer" in text
    assert (nested.bytes, nested.flops) == (plain.bytes, plain.flops)


def test_collectives_say_what_a_chip_sends():
    (one,) = read(LOOP.replace("STEP", "1"))["all"].collectives
    assert (one.kind, one.bytes, one.group.size) == ("all-reduce", 4 * 64 * 128, 4)
    assert one.sent == 2 * 3 / 4 * one.bytes
    for kind, share in (("all-gather", 3 / 4), ("collective-permute", 1)):
        assert Collective(kind, 100.0, one.group).sent == 100 * share


HOSTS = """HloModule hosts

ENTRY %main (p: f32[64,128]) -> f32[256,128] {
  %p = f32[64,128]{1,0:T(8,128)} parameter(0)
  %start = token[] after-all()
  %send = (f32[64,128]{1,0:T(8,128)}, u32[], token[]) send(%p, %start), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_GATHER"}
  %recv = (f32[256,128]{1,0:T(8,128)}, u32[], token[]) recv(%start), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_GATHER"}
  %done = (f32[256,128]{1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %got = f32[256,128]{1,0:T(8,128)} get-tuple-element(%done), index=0
}
"""  # noqa: E501


def test_what_hosts_exchange_with_other_slices_is_told_apart():
    found = read(HOSTS)
    (one,) = found["send"].collectives
    own = 4 * 64 * 128
    assert one.slices and (one.kind, one.group.size) == ("all-gather", 4)
    assert (one.bytes, one.sent) == (4 * own, 3 * own)
    assert not found["recv"].collectives
    assert [found[name].bytes for name in ("send", "recv")] == [own, 4 * own]


SPREAD = """HloModule gather

%start_part (p: f32[2,8]) -> f32[8,8] {
  %p = f32[2,8]{1,0} parameter(0)
  %gather.1 = f32[8,8]{1,0} all-gather(%p), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %custom.1 = f32[8,8]{1,0} custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%done_part (r: f32[8,8], s: f32[2,8]) -> f32[8,8] {
  %r = f32[8,8]{1,0} parameter(0)
  %s = f32[2,8]{1,0} parameter(1)
  %gather.2 = f32[8,8]{1,0} all-gather(%s), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %custom.2 = f32[8,8]{1,0} custom-call(%r, %gather.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: f32[2,8]) -> f32[8,8] {
  %x = f32[2,8]{1,0} parameter(0)
  %begun = f32[8,8]{1,0} fusion(%x), kind=kCustom, calls=%start_part
  ROOT %ended = f32[8,8]{1,0} fusion(%begun, %x), kind=kCustom, calls=%done_part
}
"""  # noqa: E501


def test_an_exchange_spread_over_fusions_is_one():
    found = [c for k in read(SPREAD, 4).values() for c in k.collectives]
    assert [(c.kind, c.bytes, c.sent) for c in found] == [("all-gather", 256, 192)]


BATCHED = """HloModule products

ENTRY %main (a: f32[8,6,256,64], b: f32[8,6,256,64]) -> f32[8,6,256,256] {
  %a = f32[8,6,256,64]{3,2,1,0} parameter(0)
  %b = f32[8,6,256,64]{3,2,1,0} parameter(1)
  ROOT %c = f32[8,6,256,256]{3,2,1,0} convolution(%a, %b), WINDOW, dim_labels=01bf_01oi->01bf
}
"""  # noqa: E501


@pytest.mark.parametrize(
    "window",
    [
        "window={size=8x6 stride=7x5 lhs_dilate=8x6}",
        "window={size=8x6 stride=8x6 pad=7_7x5_5 lhs_dilate=7x5 rhs_reversal=1x1}",
    ],
    ids=["spread", "reversed"],
)
def test_batched_products_written_as_convolutions_count_as_products(window):
    """Of the windows' 48 x 48 pairs of positions only 48 fall on data."""
    found = read(BATCHED.replace("WINDOW", window), 1)
    assert found["c"].flops == 2 * 8 * 6 * 256 * 256 * 64


@pytest.mark.parametrize(
    "text, first",
    [
        ("replica_groups={{0,3},{1,2}}", (0, 3)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", (*range(8),)),
        ("source_target_pairs={{0,1},{1,2}}", (0, 1)),
        ("replica_groups={}", (*range(8),)),
    ],
    ids=["lists", "iota", "transposed", "axis", "axes", "pairs", "all"],
)  # fmt: skip
def test_groups_are_read_in_every_notation(text, first):
    assert group(f", channel_id=1, {text}, dimensions={{0}}", 8) == (len(first), first)


def test_shapes_are_padded_to_whole_tiles():
    (one,) = shapes("bf16[2,9,72]{2,1,0:T(8,128)(2,1)}")
    assert one.bytes == 2 * 2 * 9 * 72 and one.padded == 2 * 2 * 16 * 128
    (turned,) = shapes("bf16[2,72,9]{1,2,0:T(8,128)(2,1)S(1)}")
    assert turned.padded == one.padded and turned.space == 1
    flat = shapes("(f32[8]{0}, (pred[], u32[]{:S(2)}))")
    assert [s.dtype for s in flat] == ["f32", "pred", "u32"]
    assert [s.bytes for s in flat] == [32, 1, 4]


def test_a_program_of_this_backend_is_counted_through_nested_loops():
    def program(x, w):
        def layer(x, w):
            rows = jax.lax.map(lambda row: jnp.sin(row @ w), x)
            return rows, None

        return jax.lax.scan(layer, x, w)[0]

    x, w = jnp.zeros((3, 16, 32)), jnp.zeros((5, 32, 32))
    text = jax.jit(program).lower(x, w).compile().as_text()
    found = kernels(parse(text), 1)
    assert not any(k.guessed for k in found)
    assert sum(k.flops * k.times for k in found) == 5 * 3 * 2 * 16 * 32 * 32
    program_ = parse(text)
    loops = [i for c in program_.computations.values() for i in c if i.op == "while"]
    assert sorted(trips(program_, loop) or 0 for loop in loops) == [3, 5]


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="as_text"):
        parse("HloModule nothing\n")
