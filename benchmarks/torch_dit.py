# SPDX-License-Identifier: Apache-2.0
"""The opponent: a plain PyTorch DiT, written as a PyTorch user would write it.

Fused six-fold modulation and qkv, `scaled_dot_product_attention`, `layer_norm`,
tanh-GELU, fused AdamW and a foreach EMA. `contestant` gives the same three tasks as
`benchmarks/jdit_dit.py`.
"""

from collections.abc import Callable

import torch
from jdit_dit import GRID, SIZES
from torch import nn
from torch.nn import functional as F


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.modulation = nn.Linear(dim, 6 * dim)

    def forward(self, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        s1, c1, g1, s2, c2, g2 = self.modulation(F.silu(vector)).chunk(6, -1)
        y = modulate(F.layer_norm(x, (d,), eps=1e-6), s1, c1)
        qkv = self.qkv(y).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + g1[:, None] * self.proj(y.transpose(1, 2).reshape(b, n, d))
        y = modulate(F.layer_norm(x, (d,), eps=1e-6), s2, c2)
        return x + g2[:, None] * self.fc2(F.gelu(self.fc1(y), approximate="tanh"))


class DiT(nn.Module):
    def __init__(
        self, dim: int, depth: int, heads: int, channels: int = 4, grid: int = GRID
    ) -> None:
        super().__init__()
        self.side, self.channels = grid // 2, channels
        self.patch = nn.Linear(4 * channels, dim)
        self.position = nn.Parameter(torch.randn(1, self.side**2, dim) * 0.02, False)
        self.time_in, self.time_out = nn.Linear(256, dim), nn.Linear(dim, dim)
        self.label = nn.Embedding(1001, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.modulation = nn.Linear(dim, 2 * dim)
        self.final = nn.Linear(dim, 8 * channels)

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        b, s, c = len(x), self.side, self.channels
        dtype = self.patch.weight.dtype
        x = x.to(dtype).view(b, s, 2, s, 2, c).permute(0, 1, 3, 2, 4, 5)
        x = self.patch(x.reshape(b, s * s, 4 * c)) + self.position
        rate = torch.exp(-9.2103404 * torch.arange(128, device=x.device) / 128)
        angles = (1000 * time - 1)[:, None] * rate
        basis = torch.cat([angles.cos(), angles.sin()], -1).to(dtype)
        vector = self.time_out(F.silu(self.time_in(basis))) + self.label(label)
        for block in self.blocks:
            x = block(x, vector)
        shift, scale = self.modulation(F.silu(vector)).chunk(2, -1)
        x = self.final(modulate(F.layer_norm(x, x.shape[-1:], eps=1e-6), shift, scale))
        x = x.view(b, s, s, 2, 2, 2 * c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, 2 * s, 2 * s, 2 * c).float()


def contestant(
    task: str,
    size: str,
    batch: int,
    dtype: str,
    compiled: bool,
    grid: int = GRID,
    steps: int = 10,
    device: str = "cpu",
) -> Callable[[], object]:
    """A function without arguments that does the task once, to the end.

    grid: the side of the latents. steps: of guided sampling. device: "cpu" or "cuda",
    where the caller waits for the end.
    """
    torch.manual_seed(0)
    torch.set_num_threads(torch.get_num_threads())
    torch.set_default_device(device)
    if device == "cuda":  # TF32, as XLA's default is
        torch.set_float32_matmul_precision("high")
    model = DiT(**SIZES[size], grid=grid)
    half = dtype == "bfloat16"
    x = torch.randn(batch, grid, grid, 4)
    label = torch.arange(batch) % 1000
    time = torch.linspace(0.1, 0.9, batch)
    if task != "train" and half:
        model = model.bfloat16()
    network = torch.compile(model) if compiled else model

    if task == "forward":

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return network(x, time, label)

        return forward

    if task == "sample":
        both = torch.cat([label, torch.full_like(label, 1000)])

        def sample() -> torch.Tensor:
            y = torch.randn(batch, grid, grid, 4)
            times = torch.linspace(1, 0, steps + 1)
            with torch.no_grad():
                for now, then in zip(times[:-1], times[1:], strict=True):
                    out = network(torch.cat([y, y]), now.expand(2 * batch), both)
                    yes, no = out[..., :4].chunk(2)
                    y = y + (then - now) * (no + 4.0 * (yes - no))
            return y

        return sample

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    average = [p.detach().clone() for p in parameters]

    def train() -> torch.Tensor:
        noise, t = torch.randn_like(x), torch.rand(batch)
        keep = torch.where(torch.rand(batch) < 0.1, 1000, label)
        at = t[:, None, None, None]
        with torch.autocast(device, torch.bfloat16, enabled=half):
            out = network((1 - at) * x + at * noise, t, keep)
        loss = F.mse_loss(out[..., :4], noise - x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-4)
        return loss.detach()

    return train
