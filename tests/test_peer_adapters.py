"""The adapters of benchmarks/peers drive a peer with the same process, start and count."""

from __future__ import annotations

import pickle
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde import DDIM, VPSDE, Covariance, Gaussian, sample, uniform_t
from scoresde.exact.problems import ring8

pytest.importorskip("diffusers")


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def start(model, count=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((count, 2), generator=generator, dtype=torch.float64)
    return float(model.sde.at(1.0).sigma) * x


def peer(name):
    return import_module("benchmarks.peers").named(name)


def test_the_table_of_diffusers_is_the_process():
    adapter = import_module("benchmarks.peers.diffusers")
    sde = VPSDE()
    product = np.cumprod(1 - adapter.betas(sde))
    for index in (0, 10, 499, 999):
        alpha = float(sde.at((index + 1) / 1000).alpha)
        assert product[index] == pytest.approx(alpha**2, rel=1e-10)
        assert float(adapter.knot_of(sde, index).alpha) == alpha


def test_a_peer_starts_and_ends_where_we_do():
    """DDIM on ten even steps is the same on both sides, up to diffusers' float32 table."""
    model = ring8(VPSDE())
    theirs, used = peer("diffusers DDIM").run(model, 10, start(model))
    mine = sample(model, DDIM(), uniform_t(model.sde, 10, t_min=0.1), x=start(model))
    assert used == mine.mean_nfe == 10
    assert theirs.dtype == torch.float64
    assert float((theirs - mine.x).abs().max()) < 1e-4


def test_budgets_are_kept_and_counted():
    peers = import_module("benchmarks.peers")
    model = ring8(VPSDE())
    rows = [p for p in peers.available() if p.package == "diffusers"]
    assert len(rows) >= 15
    for row in rows:
        if row.name == "diffusers DPM2":  # it takes a minute to set up its times
            continue
        _, used = row.run(model, 10, start(model, 2))
        assert used in (9, 10), row.name


def test_a_peer_ends_at_the_time_that_is_asked_for():
    peers, model, seen = import_module("benchmarks.peers"), ring8(VPSDE()), []

    def sampler(m, nfe, x):
        seen.append(m.sde)
        return m(x, m.sde.at(m.sde.t_min)).x0

    row = peers.Peer("x0 at once", "", "", sampler)
    x = start(model)
    ends = [row.run(model, 1, x, t_min=t)[0] for t in (None, 1e-4)]
    assert seen == [VPSDE(), VPSDE(t_min=1e-4)]
    for end, sde in zip(ends, seen, strict=True):
        assert torch.equal(end, model(x, sde.at(sde.t_min)).x0)


def test_seeds_are_the_callers():
    model, row = ring8(VPSDE()), peer("diffusers DDPM")
    before = torch.random.get_rng_state()
    first, again, other = (row.run(model, 10, start(model), seed=k)[0] for k in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_peers_reach_worker_processes_by_name():
    peers = import_module("benchmarks.peers")
    rows = [row for kind in peers.KINDS for row in peers.available(kind)]
    assert len({row.name for row in rows}) == len(rows)
    assert pickle.loads(pickle.dumps(rows)) == rows


def test_a_clone_is_imported_without_leaving_its_modules_behind(monkeypatch, tmp_path):
    """`utils` is a name that many repositories use, and others must go on finding theirs."""
    source = import_module("benchmarks.peers.source")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "utils.py").write_text("ANSWER = 42\n")
    (folder / "sampler.py").write_text(
        "from pictures_that_nobody_needs import draw\nimport utils\nANSWER = utils.ANSWER\n"
    )
    monkeypatch.setenv("SCORESDE_PEERS", str(tmp_path))
    stubs = ("pictures_that_nobody_needs",)
    (sampler,), commit = source.clone("theirs", "them/theirs", "sampler", stubs=stubs)
    assert sampler.ANSWER == 42
    assert commit == "unknown"
    left = {"utils", "sampler", *stubs} & set(sys.modules)
    assert not left
    with pytest.raises(source.Absent, match=r"github\.com/them/other"):
        source.clone("other", "them/other", "sampler")


def test_what_is_absent_says_how_to_get_it(monkeypatch):
    monkeypatch.delenv("SCORESDE_PEERS", raising=False)
    import_module("benchmarks.peers.source").clone.cache_clear()
    reasons = import_module("benchmarks.peers").absent()
    assert "git clone https://github.com/wl-zhao/UniPC" in reasons["unipc"]


def test_the_likelihood_baseline_on_a_gaussian():
    """One probe of signs is exact where the Jacobian is a multiple of the identity; what is left
    is the prior's N(0, I) and the solver's tolerance.
    """
    baseline = import_module("benchmarks.peers.score_sde_likelihood")
    mean = torch.zeros(
        2, dtype=torch.float64
    )  # where alpha is not quite 0, N(0, I) has no place for one
    model = Gaussian(VPSDE(t_min=1e-5), mean, Covariance.isotropic(0.25))
    x = model.sample(8, 1e-5, seed=1)
    nats, cost = baseline.score_sde_log_likelihood(model, x)
    assert float((nats - model.log_prob(x, 1e-5)).abs().max()) < 5e-4
    assert cost.forwards == 2 * cost.evaluations
