"""Models: anything that, given a state and a time, makes a `Prediction`.

`Predictor` is the one type that solvers, likelihoods, guidance and caching meet in. `ScoreModel`
makes one of any network; `scoresde.exact` has closed-form ones; wrappers in
`scoresde.guidance` take one and are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from .errors import ConfigError, DtypeError, ShapeError, TimeRangeError
from .prediction import Parametrization, Prediction, PredictsFlow, parametrization
from .scalar import Scalar, scale
from .sde import SDE, DiscreteVPSDE, FlowSDE
from .sde.knot import Knot
from .time_input import TimeInput, time_input


@runtime_checkable
class Predictor(Protocol):
    """What solvers, likelihoods and wrappers ask of a model: three members."""

    @property
    def sde(self) -> SDE:
        """The process that the model was trained on."""

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The prediction at state x, shape (B, *), and a knot."""

    def rows(self, index: Tensor) -> Predictor:
        """The model for a batch made of these samples (a LongTensor; it may repeat).

        Per-sample conditions follow; everything else is shared. Every driver that changes the
        batch calls this, every wrapper forwards it.
        """


def device_of(model: Predictor) -> torch.device:
    """Where a network, or a closed-form model, computes; the CPU where that is not known."""
    known = _first_number(model)
    return torch.device("cpu") if known is None else known.device


def dtype_of(model: Predictor) -> torch.dtype:
    """In what a network, or a closed-form model, computes; float32 where that is not known."""
    known = _first_number(model)
    given = getattr(model, "net_dtype", None)
    return given or (torch.float32 if known is None else known.dtype)


def _first_number(model: Predictor) -> Tensor | None:
    parameters = getattr(model, "parameters", None)
    known = getattr(model, "means", None) if parameters is None else next(iter(parameters()), None)
    return known if isinstance(known, Tensor) else None


@dataclass(frozen=True, eq=False)
class Shared:
    """Marks a tensor condition that belongs to the whole batch, not to its samples."""

    value: Any


class WithVariance(NamedTuple):
    """What an `output` returns for a network that learned the variance of a step back too.

    Attributes:
        raw: the prediction, shape (B, *).
        share: see `Prediction`, shape (B, *).
    """

    raw: Tensor
    share: Tensor


@dataclass(frozen=True)
class LearnedRange:
    """The `output` of networks with twice the channels: the prediction, then the variance.

    The second half runs from -1 to 1 as the log of the variance runs from that of the posterior to
    that of the forward transition: Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic
    Models", 2021, eq. 15, in their code and in guided-diffusion, DiT and diffusers
    ("learned_range"). `Ancestral("learned")` uses it; other solvers need no variance.
    """

    def __call__(self, out: Any) -> WithVariance:
        """The two halves of a tensor (B, 2 C, ...), or of an object's `.sample`.

        Raises:
            ShapeError: if the channels are not two halves.
        """
        tensor: Tensor = _plain_output(out)
        if tensor.ndim < 2 or tensor.shape[1] % 2:
            raise ShapeError(
                f"a learned variance comes in a second half of the channels, got shape "
                f"{tuple(tensor.shape)}; write ScoreModel(..., output=lambda out: ...) to pick the "
                "part meant"
            )
        raw, variance = tensor.chunk(2, dim=1)
        return WithVariance(raw, 0.5 * (variance + 1.0))


class ScoreModel(nn.Module):
    """A network, the process it was trained on, and what its input and output mean.

    Args:
        net: any callable `net(x, time, **conditions)`, module or function.
        sde: the process.
        predicts: "eps", "x0", "score", "v", "flow" or "F", or a `Parametrization`, such as
            `PredictsF(sigma_data=1.0)`.
        time: how the network is told the time: "t", `ScaledTime(999)`, "index", "sigma",
            "log_sigma", "c_noise", or a function of the `Knot`. None takes the process's own
            convention where it has one.
        output: a function from what the network returns to the tensor meant; by default a
            tensor, or an object's `.sample`. `LearnedRange()` for networks that predict their
            variance too.
        net_dtype: dtype in which the network runs; by default that of its parameters, or of
            the state where it has none. The state is cast on the way in, the output on the way
            out; solvers never see this dtype.

    Raises:
        ConfigError: for a class instead of an instance, an unknown name, or "flow" with a process
            whose alpha + sigma is not 1.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        sde: SDE,
        *,
        predicts: str | Parametrization = "eps",
        time: str | TimeInput | None = None,
        output: Callable[[Any], Tensor | WithVariance] | None = None,
        net_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not callable(net):
            raise ConfigError(f"a network must be callable as net(x, time), got {net!r}")
        for what, value in (("network", net), ("process", sde)):
            if isinstance(value, type):
                raise ConfigError(
                    f"the {what} must be an instance, got the class {value.__name__}; write "
                    f"{value.__name__}(...)"
                )
        if not isinstance(sde, SDE):
            raise ConfigError(f"the process must be an SDE, got {sde!r}; write VPSDE()")
        self.net = net
        self.training = getattr(net, "training", False)  # the network's mode, not PyTorch's default
        self._sde = sde
        self.predicts = parametrization(predicts)
        self.time = time_input(time, sde)
        self.output = output if output is not None else _plain_output
        self.net_dtype = net_dtype
        self.conditions: dict[str, Any] = {}
        if isinstance(self.predicts, PredictsFlow) and not isinstance(sde, FlowSDE):
            raise ConfigError(
                "a flow velocity is eps - x0 only where alpha + sigma = 1; "
                f"write sde=FlowSDE() instead of {type(sde).__name__}, or predicts='v'"
            )

    @property
    def sde(self) -> SDE:
        """The process that the network was trained on."""
        return self._sde

    @classmethod
    def from_betas(
        cls,
        net: Callable[..., Any],
        betas: Sequence[float] | np.ndarray | Tensor,
        *,
        predicts: str | Parametrization = "eps",
        time: str | TimeInput | None = None,
        output: Callable[[Any], Tensor | WithVariance] | None = None,
        net_dtype: torch.dtype | None = None,
    ) -> ScoreModel:
        """A DDPM network with its table of betas, told the real-valued index by default."""
        return cls(
            net,
            DiscreteVPSDE.from_betas(betas),
            predicts=predicts,
            time=time,
            output=output,
            net_dtype=net_dtype,
        )

    def bind(self, **conditions: Any) -> ScoreModel:
        """The same network with keyword conditions, passed at every call.

        A tensor or array is per-sample, one row a sample, and follows its sample wherever a
        driver changes the batch; wrap it as `Shared(tensor)` if it belongs to all samples.
        Anything else (a number, a string, None) is shared.

        Raises:
            DtypeError: for a list or tuple, which could mean either.
        """
        model = ScoreModel(
            self.net,
            self._sde,
            predicts=self.predicts,
            time=self.time,
            output=self.output,
            net_dtype=self.net_dtype,
        )
        rows = {k: torch.as_tensor(v) for k, v in conditions.items() if isinstance(v, np.ndarray)}
        for name, value in conditions.items():
            if isinstance(value, list | tuple):
                raise DtypeError(
                    f"condition {name!r} is a {type(value).__name__}, which could be one row a "
                    f"sample or one value for all; write torch.tensor(...) or Shared(...)"
                )
        model.conditions = {**self.conditions, **conditions, **rows}
        return model

    def rows(self, index: Tensor) -> ScoreModel:
        """See `Predictor`."""
        if not self.conditions:
            return self
        return self.bind(
            **{
                name: value[index.to(value.device)] if isinstance(value, Tensor) else value
                for name, value in self.conditions.items()
            }
        )

    def forward(self, x: Tensor, knot: Knot) -> Prediction:
        """One network evaluation: the prediction at x, shape (B, *), and a knot.

        Raises:
            ShapeError: if the output, or a per-sample condition, does not fit x.
            DtypeError: if the output is not a tensor, or x is not floating point.
            TimeRangeError: at sigma = 0.
            ZeroSNRError: where alpha = 0 and the network predicts eps, the score or F.
        """
        if not isinstance(knot, Knot):
            raise DtypeError(
                f"a model is called with a Knot, got {type(knot).__name__}; "
                "write model(x, sde.at(t, like=x)), or model.score(x, t)"
            )
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise DtypeError(
                f"the state must be a floating-point tensor, got {getattr(x, 'dtype', type(x))}; "
                "write torch.as_tensor(x).float()"
            )
        if knot.is_clean:
            raise TimeRangeError(
                "a network has nothing to say at sigma = 0, where there is no noise left; ask it "
                f"at a time from t_min = {self._sde.t_min:g} upwards"
            )
        dtype = self.net_dtype or self._own_dtype() or x.dtype
        conditions = {
            name: self._condition(name, value, x) for name, value in self.conditions.items()
        }
        inputs = scale(self.predicts.input_scale(knot), x).to(dtype)
        time = self._time_tensor(knot, x, dtype)
        try:
            made = self.output(self.net(inputs, time, **conditions))
        except Exception as error:  # whatever a network raises, which goes on with a note
            self._explain(error, inputs, time)
            raise
        out, share = made if isinstance(made, WithVariance) else (made, None)
        if not isinstance(out, Tensor):
            raise DtypeError(
                f"the network returned {type(out).__name__}, not a tensor; write "
                "ScoreModel(..., output=lambda out: ...) to pick the tensor meant"
            )
        if out.shape != x.shape:
            raise ShapeError(
                f"the network returned shape {tuple(out.shape)} for a state of shape "
                f"{tuple(x.shape)}; write ScoreModel(..., output=lambda out: ...) to pick the part "
                "meant (LearnedRange() where a network predicts its variance too)"
            )
        return Prediction(x, knot, out.to(x.dtype), self.predicts, share=share)

    def score(self, x: Tensor, t: Scalar) -> Tensor:
        """The score -eps / sigma at x, shape (B, *); t is a float or a tensor (B,)."""
        prediction: Prediction = self(x, self._sde.at(t, like=x))
        return prediction.score

    def extra_repr(self) -> str:
        """What decides the meaning of the weights."""
        return f"sde={self._sde!r}, predicts={self.predicts!r}, time={self.time!r}"

    def _own_dtype(self) -> torch.dtype | None:
        if not isinstance(self.net, nn.Module):
            return None
        parameter = next(self.net.parameters(), None)
        return None if parameter is None else parameter.dtype

    def _time_tensor(self, knot: Knot, x: Tensor, dtype: torch.dtype) -> Tensor:
        # At least float32: 999 t in bfloat16 would be told apart only in steps of 4.
        kind = torch.promote_types(dtype, torch.float32)
        value = self.time(knot)
        if isinstance(value, Tensor):
            value = value if value.dtype == torch.long else value.to(kind)
            return value.reshape(-1).expand(x.shape[0]).to(x.device)
        if isinstance(value, int):
            kind = torch.long
        return torch.full(x.shape[:1], value, dtype=kind, device=x.device)

    def _explain(self, error: Exception, inputs: Tensor, time: Tensor) -> None:
        """Say in a note what the network was given; raise DtypeError where that is the reason."""
        hidden = self.net_dtype is None and self._own_dtype() is None
        words = "dtype", "scalar type", "should be the same"
        if hidden and inputs.dtype != torch.float32 and any(word in str(error) for word in words):
            raise DtypeError(
                f"the network is a function, which hides the dtype of its parameters, and was "
                f"given {inputs.dtype}, the state's ({error}); write ScoreModel(..., "
                "net_dtype=torch.float32), or pass the module itself"
            ) from error
        error.add_note(
            f"The network was called as net(x, time) with x of shape {tuple(inputs.shape)}, "
            f"{inputs.dtype}, and time of shape {tuple(time.shape)}, {time.dtype}"
            f"{', and ' if self.conditions else ''}{', '.join(self.conditions)}."
        )

    @staticmethod
    def _condition(name: str, value: Any, x: Tensor) -> Any:
        if isinstance(value, Shared):
            return value.value
        if isinstance(value, Tensor) and value.shape[:1] != x.shape[:1]:
            raise ShapeError(
                f"condition {name!r} has shape {tuple(value.shape)} for a batch of {x.shape[0]}; "
                f"give one row a sample, or write bind({name}=Shared(...)) if all samples share it"
            )
        return value


def _plain_output(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out
    return getattr(out, "sample", out)
