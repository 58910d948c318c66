"""Networks that wait for other ranks: two processes, each with data that need other many calls."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from scoresde import (
    CFG,
    DDIM,
    VPSDE,
    ScoreModel,
    encode,
    log_likelihood,
    sample,
    uniform_lambda,
)
from scoresde._internal.checks import check_lockstep
from scoresde.errors import ConfigError
from scoresde.likelihood import Exact, FixedGrid, PerSample
from scoresde.training.losses import score_matching_loss

SDE = VPSDE()


class Net(nn.Module):
    """With a buffer, which DDP copies from rank 0 at every call of its wrapper."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("steps", torch.zeros(()))
        self.calls = 0
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.6, 0.1], [-0.2, 0.5]]))
            self.layer.bias.fill_(0.05)

    def forward(self, x, time, y=None):
        self.calls += 1
        return torch.tanh(self.layer(x)) * (1 + time[:, None])


def _data(rank):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 2, generator=generator)
    return x[:1] if rank else 6.0 * x  # far-off points take more steps


def _results(model, rank):
    x, rule = _data(rank), {"method": PerSample(tol=1e-6), "divergence": Exact()}
    found = log_likelihood(model, x, **rule)
    guided = CFG(model, scale=1.5, cond={"y": torch.ones(len(x))}, uncond={"y": 0})
    return {
        "nats": found.nats,
        "nfe": found.nfe,
        "guided": log_likelihood(guided, x, **rule).nats,
        "latent": encode(model, x),
        "samples": sample(model, "DPMSolverAdaptive", shape=(2 + rank, 2), seeds=rank).x,
    }


def _work(rank, port, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    net = Net()
    wrapped = DistributedDataParallel(net)
    model = ScoreModel(wrapped, SDE, time="t")
    found = _results(model, rank)
    assert model.net is wrapped
    # Losses go through the wrapper, which averages gradients over the ranks.
    generator = torch.Generator().manual_seed(rank)
    score_matching_loss(model, _data(rank), generator=generator).mean().backward()
    found["gradient"] = net.layer.weight.grad.clone()
    # Gradients of a run with a fixed number of calls keep it too; others are refused.
    with pytest.raises(ConfigError, match="DistributedDataParallel waits for all ranks"):
        log_likelihood(model, _data(rank), method=PerSample(), divergence=Exact(), grad=True)
    sharded = type("FullyShardedDataParallel", (Net,), {})()
    for act in (
        lambda: log_likelihood(ScoreModel(sharded, SDE, time="t"), _data(rank)),
        lambda: encode(ScoreModel(sharded, SDE, time="t"), _data(rank)),
        lambda: sample(ScoreModel(sharded, SDE, time="t"), "ProbabilityFlow", shape=(2, 2)),
    ):
        with pytest.raises(ConfigError, match="FullyShardedDataParallel waits"):
            act()
    fixed = log_likelihood(
        ScoreModel(sharded, SDE, time="t"), _data(rank), method=FixedGrid(9), divergence=Exact()
    )
    found["fixed"] = fixed.nats
    torch.save({name: value.detach() for name, value in found.items()}, f"{out}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_runs_of_unlike_lengths_on_two_ranks_end_and_are_right(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.spawn(_work, (port, str(tmp_path)), nprocs=2, join=False)
    for _ in range(60):
        if context.join(timeout=2):
            break
    else:
        for process in context.processes:
            process.kill()
        pytest.fail("two ranks still wait for each other after 120 seconds")
    plain = ScoreModel(Net(), SDE, time="t")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert found[0]["nfe"].max() > found[1]["nfe"].max()  # unwrapped, or it would have hung
    gradients = []
    for rank in range(2):
        for name, value in _results(plain, rank).items():
            torch.testing.assert_close(found[rank][name], value.detach())
        plain.zero_grad()
        generator = torch.Generator().manual_seed(rank)
        score_matching_loss(plain, _data(rank), generator=generator).mean().backward()
        gradients.append(plain.net.layer.weight.grad.clone())
    for rank in range(2):
        torch.testing.assert_close(found[rank]["gradient"], (gradients[0] + gradients[1]) / 2)


def test_data_parallel_stays_and_gives_what_its_module_gives():
    net = Net()
    model = ScoreModel(DataParallel(net), SDE, time="t")
    grid = uniform_lambda(SDE, 5)
    want = sample(ScoreModel(net, SDE, time="t"), DDIM(), grid, shape=(3, 2)).x
    net.calls = 0
    assert torch.equal(sample(model, DDIM(), grid, shape=(3, 2)).x, want)
    assert net.calls == 5


def test_one_process_waits_for_nobody():
    sharded = type("FullyShardedDataParallel", (Net,), {})()
    check_lockstep(ScoreModel(sharded, SDE, time="t"), "PerSample", grad=True)
