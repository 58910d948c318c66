"""Noise: what it depends on (seed, batch, step), and the distribution of Brownian increments."""

from __future__ import annotations

import hashlib
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from support import CONTINUOUS, randn

from scoresde import (
    DDIM,
    EDMSDE,
    VPSDE,
    BatchSeed,
    BrownianPath,
    Covariance,
    EulerMaruyama,
    FlowSDE,
    Gaussian,
    Predrawn,
    SampleSeeds,
    sample,
    uniform_lambda,
)
from scoresde.errors import ConfigError, ShapeError
from scoresde.noise import generator, mix, source
from scoresde.solvers.seeds_sde import SEEDS2

DTYPES = [torch.bfloat16, torch.float32, torch.float64]
EDM = EDMSDE()


# -- one seed a sample ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SampleSeeds, BrownianPath])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("event", [(), (1,), (3, 5, 7), (64,)])
def test_a_samples_noise_depends_on_its_seed_alone(kind, dtype, event):
    seeds = (11, 3, 2**40, 0)

    def draws(order):
        stream = kind(tuple(seeds[i] for i in order)).open((len(order), *event), dtype)
        t, m, s = EDM.at(20.0), EDM.at(5.0), EDM.at(0.1)
        return [stream.start(), stream.increment(t, m), stream.normal(), stream.increment(m, s)]

    everyone = draws([0, 1, 2, 3])
    for order in ([2], [3, 1], [1, 1, 0, 2, 3]):
        for some, all_ in zip(draws(order), everyone, strict=True):
            assert some.dtype == dtype
            assert torch.equal(some, all_[order])
    assert kind(seeds).rows([2, 0]) == kind((seeds[2], seeds[0]))
    first = everyone[0].double()
    # Other seeds, other noise, up to chance: in bfloat16 about 1 normal in 100 is drawn twice.
    assert float((first[0] != first[1]).double().mean()) > 0.9


def test_the_same_source_opens_twice_alike():
    for noise in (BatchSeed(4), SampleSeeds((1, 2)), BrownianPath((1, 2))):
        one, two = (noise.open((2, 5), torch.float32) for _ in range(2))
        assert all(torch.equal(one.normal(), two.normal()) for _ in range(3))
        assert not torch.equal(one.normal(), one.normal())
        assert pickle.loads(pickle.dumps(noise)) == noise
        assert hash(noise) == hash(pickle.loads(pickle.dumps(noise)))


def test_a_shared_stream_belongs_to_the_batch():
    assert BatchSeed(0).rows([0]) is None
    assert not torch.equal(
        BatchSeed(0).open((2, 3), torch.float64).normal(),
        BatchSeed(1).open((2, 3), torch.float64).normal(),
    )


def test_torchs_own_generator_is_left_alone():
    before = torch.get_rng_state()
    for noise in (BatchSeed(0), SampleSeeds((0, 1)), BrownianPath((0, 1))):
        stream = noise.open((2, 3), torch.float32)
        stream.start()
        stream.increment(EDM.at(3.0), EDM.at(1.0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("noise", [BatchSeed(0), SampleSeeds((0, 1)), BrownianPath((0, 1))])
def test_draws_do_not_depend_on_torchs_default_dtype(noise):
    wide = noise.open((2, 9), torch.float32).normal()
    torch.set_default_dtype(torch.float32)
    assert wide.dtype == torch.float32
    assert torch.equal(noise.open((2, 9), torch.float32).normal(), wide)


def test_draws_are_standard_normal():
    """20,000 draws: a deviation 3% off is found with certainty (6 standard errors)."""
    for noise in (BatchSeed(1), SampleSeeds(tuple(range(200)))):
        z = noise.open((200, 100), torch.float64).normal().flatten().numpy()
        assert kstest(z, "norm").pvalue > 1e-3
        assert abs(z.std() - 1) * math.sqrt(2 * z.size) < 4


def test_one_number_or_several():
    assert source(3) == BatchSeed(3)
    assert source(range(2)) == SampleSeeds((0, 1))
    assert source(np.int64(3)) == BatchSeed(3)
    assert source(np.arange(2)) == SampleSeeds((0, 1))
    assert source(torch.arange(2)) == SampleSeeds((0, 1))


# -- Brownian paths --------------------------------------------------------------------------------

PATHS = BrownianPath(tuple(range(100)))
SHAPE = (100, 200)  # 20,000 increments: 5% off in a variance is 5 standard errors


def _plain(stream, t: float, s: float) -> torch.Tensor:
    """B(t) - B(s) with clock rho^2 = t^2, not normalised."""
    return stream.increment(EDM.at(t), EDM.at(s)) * math.sqrt(t * t - s * s)


@pytest.mark.parametrize(
    ("t", "s"), [(80.0, 0.002), (80.0, 79.0), (1.0, 0.999), (0.003, 0.002), (5.0, 0.01)]
)
def test_increments_are_standard_normal(t, s):
    z = PATHS.open(SHAPE, torch.float64).increment(EDM.at(t), EDM.at(s)).flatten().numpy()
    assert kstest(z, "norm").pvalue > 1e-3
    low, high = chi2.ppf([5e-4, 1 - 5e-4], z.size)
    assert low < (z**2).sum() < high


def test_disjoint_increments_are_independent_and_overlapping_ones_are_not():
    stream = PATHS.open(SHAPE, torch.float64)
    cuts = [60.0, 20.0, 3.0, 1.0, 0.98, 0.05]
    z = [stream.increment(EDM.at(t), EDM.at(s)).flatten() for t, s in pairwise(cuts)]
    correlation = torch.corrcoef(torch.stack(z)) - torch.eye(len(z))
    assert float(correlation.abs().max()) * math.sqrt(z[0].numel()) < 4.5
    long, short = _plain(stream, 20.0, 0.05), _plain(stream, 3.0, 1.0)
    covariance = float((long * short).mean())
    expected = 3.0**2 - 1.0**2
    spread = math.sqrt((400 * expected + expected**2) / long.numel())
    assert abs(covariance - expected) < 4 * spread
    # The extra normals come from elsewhere.
    extra = stream.normal().flatten()
    assert abs(float((extra * z[0]).mean())) * math.sqrt(extra.numel()) < 4


def test_increments_add_up():
    stream = BrownianPath((5, 6, 7)).open((3, 4), torch.float64)
    cuts = [80.0, 31.0, 7.77, 1.0, 0.999, 0.2, 0.0021]
    whole = _plain(stream, cuts[0], cuts[-1])
    parts = sum(_plain(stream, t, s) for t, s in pairwise(cuts))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_the_path_does_not_depend_on_the_order_of_questions():
    rng = np.random.default_rng(0)
    pairs = [tuple(sorted(rng.uniform(0.002, 80, 2), reverse=True)) for _ in range(20)]
    one = BrownianPath((1, 2)).open((2, 3), torch.float64)
    answers = [one.increment(EDM.at(t), EDM.at(s)) for t, s in pairs]
    for k in rng.permutation(20):
        fresh = BrownianPath((1, 2)).open((2, 3), torch.float64)
        if k % 7 == 0:  # a stream that was asked nothing else
            assert torch.equal(fresh.increment(*(EDM.at(float(u)) for u in pairs[k])), answers[k])
        assert torch.equal(one.increment(*(EDM.at(float(u)) for u in pairs[k])), answers[k])


def test_the_path_belongs_to_no_process():
    """The clock is rho^2: the same rho gives the same path, whatever the process."""
    noise = BrownianPath((1, 2))
    lams = (-2.0, 1.0)
    answers = [
        noise.open((2, 3), torch.float64).increment(*(sde.at_lambda(lam) for lam in lams))
        for sde in CONTINUOUS.values()
    ]
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-4, atol=1e-4)


def test_both_ends_of_the_path():
    stream = PATHS.open(SHAPE, torch.float64)
    to_clean = stream.increment(EDM.at(0.5), EDM.clean)
    assert kstest(to_clean.flatten().numpy(), "norm").pvalue > 1e-3
    parts = _plain(stream, 0.5, 0.1) + 0.1 * stream.increment(EDM.at(0.1), EDM.clean)
    torch.testing.assert_close(parts, 0.5 * to_clean, rtol=1e-12, atol=1e-12)
    from_nothing = stream.increment(FlowSDE().at(1.0), FlowSDE().at(0.5))
    assert kstest(from_nothing.flatten().numpy(), "norm").pvalue > 1e-3


def test_memory_of_a_path_is_bounded():
    stream = BrownianPath((0,)).open((1, 2), torch.float64)
    for t in np.geomspace(80, 0.002, 200):
        stream.increment(EDM.at(float(t)), EDM.at(float(t) * 0.9))
    assert len(stream.nodes) <= 2 * PATHS.depth + 4


# -- seeds -----------------------------------------------------------------------------------------


def test_streams_of_different_keys_have_nothing_in_common():
    keys = [
        (1, 2), (2, 1), (12,), ("12",), (1, "2"), ("1", 2), (0,), (0, 0), (-1,), (1,), (7,),
        (7 + 2**32,), (7 + 2**64,), (-7,), ("a", "b"), ("ab",), ("a', 'b",), (),
    ]  # fmt: skip
    assert len({mix(*key) for key in keys}) == len(keys)
    assert all(0 <= mix(*key) < 2**64 for key in keys)
    z = torch.stack([torch.randn(4000, generator=generator(*key)) for key in keys])
    correlation = torch.corrcoef(z) - torch.eye(len(keys))
    assert float(correlation.abs().max()) < 5 / math.sqrt(4000)
    assert mix(np.int64(5), "x") == mix(5, "x") == mix(torch.tensor(5), "x")
    # SHAKE-128 of the text "(5, 'x')", whoever computes it.
    assert mix(5, "x") == int.from_bytes(hashlib.shake_128(b"(5, 'x')").digest(8), "little")


def test_the_state_of_the_generator_is_the_digest_of_its_keys():
    """Against numpy's Mersenne twister of the same state: two of its words make 64 bits."""
    twin = np.random.MT19937()
    key = np.frombuffer(hashlib.shake_128(b"(3, 'x')").digest(2496), "<u4")
    twin.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 624}}
    words = twin.random_raw(3000).reshape(-1, 2)
    drawn = torch.empty(1500, dtype=torch.int64).random_(0, 2**31, generator=generator(3, "x"))
    assert drawn.tolist() == (words[:, 1] % 2**31).tolist()


def test_every_bit_of_a_seed_counts():
    for kind in (lambda s: BatchSeed(s), lambda s: SampleSeeds((s,)), lambda s: BrownianPath((s,))):
        draws = [kind(7 + bit).open((1, 50), torch.float64).start() for bit in (0, 2**32, 2**63)]
        assert len({tuple(z.flatten().tolist()) for z in draws}) == 3


@pytest.mark.parametrize("kind", [BatchSeed(3), SampleSeeds((3, 4)), BrownianPath((3, 4))])
@pytest.mark.parametrize("event", [(), (5,), (3, 8, 8)])
def test_a_seed_means_one_path_in_every_dtype(kind, event):
    def draws(dtype):
        stream = kind.open((2, *event), dtype)
        t, m, s = EDM.at(20.0), EDM.at(5.0), EDM.at(0.1)
        return [stream.start(), stream.increment(t, m), stream.normal(), stream.increment(m, s)]

    exact = draws(torch.float64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for z, truth in zip(draws(dtype), exact, strict=True):
            assert torch.equal(z, truth.to(dtype))


@pytest.mark.parametrize("solver", [EulerMaruyama(), DDIM(eta=1.0), SEEDS2()], ids=str)
def test_samples_of_a_seed_agree_in_single_and_double_precision(solver):
    """Unrelated noise would leave samples of deviation 0.5 some 0.7 apart."""
    model = Gaussian(VPSDE(), torch.zeros(3, 4).double(), Covariance.isotropic(0.25))
    for seeds in (3, range(5)):
        wide, narrow = (
            sample(
                model, solver, uniform_lambda(model.sde, 20), shape=(5, 3, 4), seeds=seeds, dtype=d
            )
            for d in (torch.float64, torch.float32)
        )
        torch.testing.assert_close(narrow.x.double(), wide.x, rtol=1e-4, atol=1e-5)


# -- noise from elsewhere ---------------------------------------------------------------------


def test_predrawn_noise_is_handed_out_in_order():
    draws = tuple(randn(2, 3, seed=k) for k in range(3))
    stream = Predrawn(draws).open((2, 3), torch.float32)
    t, s = EDM.at(2.0), EDM.at(1.0)
    for given, expected in zip(
        (stream.start(), stream.normal(), stream.increment(t, s)), draws, strict=True
    ):
        assert torch.equal(given, expected.float())
    with pytest.raises(ConfigError, match="all 3 predrawn tensors are used up"):
        stream.normal()
    some = Predrawn(draws).rows([1]).open((1, 3), torch.float64)
    assert torch.equal(some.normal(), draws[0][1:])


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda: SampleSeeds((1, 2)).open((3, 4), torch.float32), ShapeError, "seeds=range(3)"),
        (lambda: BrownianPath((1, 2)).open((3, 4), torch.float32), ShapeError, "2 seeds"),
        (lambda: Predrawn((randn(2, 3),)).open((2, 4), torch.float32), ShapeError, "(2, 3)"),
        (
            lambda: (
                BrownianPath((1,))
                .open((1, 4), torch.float32)
                .increment(VPSDE().at(torch.tensor([0.5]), like=randn(1, 4)), VPSDE().at(0.2))
            ),
            ConfigError,
            "fixed grid",
        ),
    ],
)
def test_bad_input_is_explained(act, error, says):
    with pytest.raises(error) as caught:
        act()
    assert says in str(caught.value)
