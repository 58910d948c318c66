"""Closed-form problems in the plane are close to the data sets that they approximate."""

from __future__ import annotations

import math

import torch

import scoresde as sd
from scoresde.exact.problems import checkerboard, spiral
from scoresde.training.data import swiss_roll

SDE = sd.VPSDE()


def turned(x: torch.Tensor, angle: float) -> torch.Tensor:
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )
    return x.double() @ rotation.T


def first_uniform(seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    return float(torch.rand(1, generator=generator, dtype=torch.float64))


def test_checkerboard_fills_its_squares_evenly():
    x = turned(checkerboard(SDE, seed=3).sample(20000, seed=0), -first_uniform(3) * math.pi / 2)
    board = ((x + 1) * 2).floor().long()
    within = ((board >= 0) & (board < 4)).all(1)
    dark = within & ((board[:, 0] + board[:, 1]) % 2 == 0)
    assert dark.double().mean() > 0.87  # the rest is the rim of the squares
    counts = torch.bincount(board[dark, 0] * 4 + board[dark, 1], minlength=16)
    assert (counts > 0).sum() == 8
    share = counts[counts > 0] / dark.sum()
    assert (share - 1 / 8).abs().max() < 4 * math.sqrt(1 / 8 * 7 / 8 / 18000)
    quarter = ((x[dark] + 1) * 2 % 1 * 4).floor()  # a quarter of a side, within the square
    inner = torch.bincount(quarter[:, 0].long(), minlength=4)[1:3] / dark.sum()
    assert (inner - 0.26).abs().max() < 0.02


def test_spiral_has_the_law_of_the_swiss_roll():
    """As likely on the set's points as on its own: the Kullback-Leibler divergence is small."""
    model, n = spiral(SDE, seed=5), 4000
    roll = swiss_roll(n, torch.Generator().manual_seed(0)).double()
    there = turned(roll, first_uniform(5) * 2 * math.pi)

    def likelihood(x: torch.Tensor) -> torch.Tensor:
        return model.log_prob(x, SDE.clean)

    own = likelihood(model.sample(n, seed=1))
    spread = math.sqrt(2 / n) * float(own.std())
    assert abs(likelihood(there).mean() - own.mean()) < 4 * spread
    for wrong in (1.05 * there, turned(there, 0.2)):
        assert likelihood(wrong).mean() < own.mean() - 8 * spread
