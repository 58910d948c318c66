"""Devices without float64, such as MPS: the CPU is declared to have none, and any float64 tensor
of the size of a state is refused, as such a device would. Knots and weights are made on the host,
and stay free there.
"""

from __future__ import annotations

import pytest
import torch
from support import gaussian, randn
from test_every_solver import SOLVERS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import scoresde.scalar
from scoresde import (
    VPSDE,
    BrownianPath,
    EulerMaruyama,
    ScoreModel,
    bits_per_dim,
    log_likelihood,
    sample,
    uniform_lambda,
)
from scoresde.likelihood import Exact, FixedGrid, Hutchinson, PerSample, Pixels, PrecisionWarning
from scoresde.likelihood.bounds import variational_bound
from scoresde.likelihood.dequantization import (
    NoDequantization,
    Reconstruction,
    TruncatedNormal,
    Uniform,
)
from scoresde.training.losses import (
    Likelihood,
    LogNormalRho,
    MinSNR,
    Mixed,
    Simple,
    UniformLambda,
    UniformT,
    score_matching_loss,
)
from scoresde.wrapper import Observer

SDE, B = VPSDE(), 13  # a number of samples that nothing else has
OWN_STEPS = ("DPMSolverAdaptive", "GottaGoFast", "ProbabilityFlow", "TorchSDE")
FIXED = [solver for solver in SOLVERS if type(solver).__name__ not in OWN_STEPS]


class NoDoubles(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            wide = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64
            if wide and B in leaf.shape and leaf.numel() > B:
                raise TypeError(f"no float64 here, shape {tuple(leaf.shape)} of {func}")
        return out


@pytest.fixture
def no_doubles(monkeypatch):
    monkeypatch.setattr(scoresde.scalar, "WITHOUT_FLOAT64", {"cpu"})
    with NoDoubles():
        yield


def _net(x, time):
    return torch.tanh(0.7 * x + 0.1 * time[:, None])


def _model():
    return ScoreModel(_net, SDE, time="t")


X = randn(B, 3).float()


def _x():
    return X.clone()


class Looking(Observer):
    """Times of each sample that reach the device are float32 there."""

    def observe(self, prediction):
        assert prediction.knot.log_sigma.dtype == torch.float32


def test_the_device_refuses_doubles(no_doubles):
    with pytest.raises(TypeError, match="no float64 here"):
        torch.zeros(B, 2).double()


@pytest.mark.parametrize("solver", FIXED, ids=str)
def test_fixed_grids_keep_to_the_dtype_of_the_state(solver, request):
    grid, x = uniform_lambda(SDE, 6), _x()
    want = sample(_model(), solver, grid, x=x).x
    request.getfixturevalue("no_doubles")
    assert torch.equal(sample(_model(), solver, grid, x=x).x, want)


def test_brownian_paths_are_the_same_to_float32(request):
    grid, noise = uniform_lambda(SDE, 6), BrownianPath(tuple(range(B)))
    want = sample(_model(), EulerMaruyama(), grid, shape=(B, 3), noise=noise).x
    request.getfixturevalue("no_doubles")
    found = sample(_model(), EulerMaruyama(), grid, shape=(B, 3), noise=noise).x
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("times", [UniformT(), UniformLambda(), LogNormalRho(), Mixed()], ids=str)
@pytest.mark.parametrize("weighting", [Simple(), Simple("v"), Likelihood(), MinSNR()], ids=str)
def test_losses_are_the_same_to_float32(weighting, times, request):
    def loss(model):
        generator = torch.Generator().manual_seed(0)
        return score_matching_loss(
            model, _x(), generator=generator, weighting=weighting, times=times
        )

    request.getfixturevalue("monkeypatch").setattr(torch, "rand", _rand)
    want = loss(_model())
    request.getfixturevalue("no_doubles")
    torch.testing.assert_close(loss(Looking(_model())), want, rtol=2e-4, atol=1e-6)


def _rand(*size, dtype=None, device=None, generator=None):
    """One draw, whatever the dtype."""
    made = torch.empty(size[0] if size else (), dtype=torch.float32).uniform_(generator=generator)
    return made.to(dtype)


@pytest.mark.parametrize(
    ("method", "divergence"),
    [
        (FixedGrid(21), Exact()),
        (PerSample(tol=1e-3), Exact()),
        (FixedGrid(21), Hutchinson(probes=2)),
    ],
    ids=str,
)
def test_likelihoods_fall_back_to_float32_and_say_so(method, divergence, request):
    rule = {"method": method, "divergence": divergence}
    want = log_likelihood(_model(), _x(), **rule)
    request.getfixturevalue("no_doubles")
    with pytest.warns(PrecisionWarning, match="cpu has no float64"):
        found = log_likelihood(_model(), _x(), **rule)
    assert found.nats.dtype == torch.float32
    # Local error control may take other steps in float32; the tolerance bounds the difference.
    limit = 2e-3 if isinstance(method, FixedGrid) else 2e-2
    assert float((found.nats - want.nats).abs().max()) < limit


@pytest.mark.parametrize(
    "rule", [Uniform(), TruncatedNormal(), Reconstruction(), NoDequantization()], ids=str
)
def test_bits_per_dim_too(rule, request):
    images = torch.arange(3 * B).reshape(B, 3) % 8
    settings = {"pixels": Pixels(8), "dequantize": rule, "method": FixedGrid(41)}
    want = bits_per_dim(_model(), images, divergence=Exact(), **settings).per_image
    request.getfixturevalue("no_doubles")
    with pytest.warns(PrecisionWarning):
        found = bits_per_dim(_model(), images, divergence=Exact(), **settings).per_image
    torch.testing.assert_close(found.double(), want, rtol=2e-3, atol=2e-3)


def test_the_variational_bound_too(request):
    def bound():
        return variational_bound(_model(), _x(), evaluations=4, times=UniformLambda()).per_sample

    want = bound()
    request.getfixturevalue("no_doubles")
    torch.testing.assert_close(bound().double(), want, rtol=1e-3, atol=1e-3)


def test_an_ordinary_device_keeps_float64(recwarn):
    found = log_likelihood(gaussian(SDE, 3), _x(), method=FixedGrid(21), divergence=Exact())
    assert found.nats.dtype == torch.float64
    assert not [w for w in recwarn if w.category is PrecisionWarning]
