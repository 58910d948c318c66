"""Models: functions of a state and a time that return a `Prediction`.

`Predictor` is the type that every solver, likelihood and wrapper takes. `ScoreModel` makes a
predictor from a network; `scoresde.exact` has closed-form predictors. A
`scoresde.wrapper.Wrapper`, such as those of `scoresde.guidance`, takes a predictor and is one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ._internal.graph import check_graph
from ._internal.net_facts import COMPUTE, bare, compute_dtype, place
from .conditions import checked, for_network, is_label, rows_of
from .errors import ConfigError, DtypeError, ShapeError, TimeRangeError
from .prediction import Parametrization, Prediction, parametrization
from .scalar import Scalar, scale
from .sde import SDE, DiscreteVPSDE
from .sde.knot import Knot
from .time_input import TimeInput, time_input
from .trusted import NoiseRange


@runtime_checkable
class Predictor(Protocol):
    """The protocol of models: the three members that solvers, likelihoods and wrappers use."""

    @property
    def sde(self) -> SDE:
        """The process that the model was trained on."""

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The prediction at state x, shape (B, *), and a knot."""

    def rows(self, index: Tensor) -> Predictor:
        """The model for a batch made of these samples (a LongTensor; indices may repeat).

        Conditions with one row per sample are selected by the index; everything else is shared.
        Every driver that changes the batch calls this method, and every wrapper forwards it.
        """


def device_of(model: Any) -> torch.device:
    """The device on which a model computes; the CPU if the model does not say."""
    found: torch.device | None = known(model, "device")
    return torch.device("cpu") if found is None else found


def dtype_of(model: Any) -> torch.dtype:
    """The dtype in which a model computes; float32 if the model does not say."""
    found: torch.dtype | None = known(model, "dtype")
    return torch.float32 if found is None else found


def event_shape_of(model: Any) -> tuple[int, ...] | None:
    """The shape of one sample if the model knows it (closed forms do); else None."""
    shape = getattr(model, "event_shape", None)
    return None if shape is None else tuple(shape)


FLOOR = 0.02
"""The floor of precision that is assumed of a network: the least root-mean-square error of eps."""


def floor_of(model: Any) -> float:
    """The floor of a model's precision: the least root-mean-square error of its eps.

    Its own attribute `floor`, or `FLOOR`. It is 0 for closed forms. A closed form of your own says
    so with `floor = 0.0`.
    """
    return float(getattr(model, "floor", FLOOR))


def predicts_of(model: Any) -> Parametrization | None:
    """What a model's network predicts; None where that is not known."""
    found = getattr(model, "predicts", None)
    return found if isinstance(found, Parametrization) else None


def noise_range_of(model: Any) -> NoiseRange | None:
    """The noise levels at which a model is trusted; None where they are not known."""
    found = getattr(model, "noise_range", None)
    return found if isinstance(found, NoiseRange) else None


def parameters_of(model: Any) -> tuple[nn.Parameter, ...]:
    """All parameters that a predictor depends on, each once.

    These are those of `model.parameters()`. For a predictor without that method they are those of
    all modules and predictors in its attributes, and in tuples, lists and dictionaries there.
    """
    found: dict[int, nn.Parameter] = {}
    seen: dict[int, Any] = {}  # keeps the objects alive, so that no id is used twice

    def look(owner: Any) -> None:
        if id(owner) in seen:
            return
        seen[id(owner)] = owner
        if isinstance(owner, nn.Parameter):
            found[id(owner)] = owner
        elif isinstance(owner, Mapping):
            for part in owner.values():
                look(part)
        elif isinstance(owner, list | tuple):
            for part in owner:
                look(part)
        elif isinstance(owner, nn.Module | Predictor) and not isinstance(owner, type):
            own = getattr(owner, "parameters", None)
            look(tuple(own()) if callable(own) else getattr(owner, "__dict__", None))

    look(model)
    return tuple(found.values())


def known(model: Any, what: str) -> Any:
    """The "device" or "dtype" of a model, or None.

    It is the model's own attribute if it has one, else that of its parameters or buffers. A dtype
    is one that networks compute in (see `COMPUTE`).
    """
    given = getattr(model, what, None)
    if what == "device":
        if given is not None:
            return torch.device(given)
        if isinstance(model, nn.Module):
            return place(model)
        return next((p.device for p in parameters_of(model)), None)
    if given in COMPUTE:
        return given
    if isinstance(model, nn.Module):
        return compute_dtype(model)
    return next((p.dtype for p in parameters_of(model) if p.dtype in COMPUTE), None)


class WithVariance(NamedTuple):
    """The value of `output` for a network that also predicts the variance of a reverse step.

    Attributes:
        raw: the prediction, shape (B, *).
        share: the variance, see `Prediction`, shape (B, *).
    """

    raw: Tensor
    share: Tensor


@dataclass(frozen=True)
class LearnedRange:
    """The `output` of networks with twice the channels: the prediction, then the variance.

    In the second half, -1 stands for the variance of the posterior and 1 for that of the forward
    transition; values between interpolate its logarithm. Nichol & Dhariwal, "Improved Denoising
    Diffusion Probabilistic Models", 2021, eq. 15, as in their code, guided-diffusion, DiT and
    diffusers ("learned_range"). `Ancestral("learned")` uses it; other solvers need no variance.
    """

    def __call__(self, out: Any) -> WithVariance:
        """The two halves of a tensor (B, 2 C, ...), or of an object's `.sample`.

        Raises:
            ShapeError: if the channels are not two halves.
        """
        tensor: Tensor = _plain_output(out)
        if tensor.ndim < 2 or tensor.shape[1] % 2:
            raise ShapeError(
                f"LearnedRange needs an even number of channels, (B, 2 C, ...), got shape "
                f"{tuple(tensor.shape)}; write ScoreModel(..., output=lambda out: ...) to select "
                "the prediction"
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
        time: the time that the network receives: "t", `ScaledTime(999)`, "index", "sigma",
            "log_sigma", "c_noise", or a function of the `Knot`. None takes the process's own
            convention, if it has one.
        output: a function that selects the prediction from what the network returns. By default
            the network must return a tensor, or an object with the tensor in `.sample`.
            `LearnedRange()` is for networks that also predict their variance.
        net_dtype: dtype in which the network runs: float16, bfloat16, float32 or float64. By
            default that of its first parameter or buffer in one of these, or of the state if it has
            none; weights stored as int8 or fp8 do not count. The state is cast to it, and the
            output is cast back, so solvers never see this dtype.

    The network gets copies of the state, the time and the conditions, and its output is copied: it
    may write into its input, or return the same tensor at every call, as a replayed CUDA graph
    does. Values marked `Shared` are not copied.

    Raises:
        ConfigError: for a class instead of an instance, or an unknown name.
        DtypeError: for a `net_dtype` that networks do not compute in.
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
        if net_dtype is not None and net_dtype not in COMPUTE:
            raise DtypeError(
                f"net_dtype is what the network computes in, got {net_dtype!r}; write "
                "net_dtype=torch.float32, float16, bfloat16 or float64, or leave it out"
            )
        self.net = net
        self.training = getattr(net, "training", False)  # the network's mode, not PyTorch's default
        self._sde = sde
        self.predicts = parametrization(predicts, sde)
        self.time = time_input(time, sde)
        self.output = output if output is not None else _plain_output
        self.net_dtype = net_dtype
        self.conditions: dict[str, Any] = {}
        self.noise_range: NoiseRange | None = None

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
        """A model of a DDPM network and its table of betas.

        By default the network receives the real-valued index as its time.
        """
        return cls(
            net,
            DiscreteVPSDE.from_betas(betas),
            predicts=predicts,
            time=time,
            output=output,
            net_dtype=net_dtype,
        )

    def bind(self, **conditions: Any) -> Self:
        """The same network with keyword conditions, passed at every call.

        - A tensor or array has one row per sample. If a driver changes the batch, rows are selected
          with their samples. The same holds inside a dictionary, list, tuple or dataclass.
        - A whole number, as in `bind(y=3)`, is the label of all samples: the network receives a
          LongTensor of shape (B,) filled with it.
        - `Shared(value)` passes the value as it is, such as a number, or a tensor for the batch as
          a whole.
        - Anything else (a float, bool, string, None) is passed as it is.

        Raises:
            DtypeError: for a list or tuple of numbers or strings: it is not clear whether that is
                one value per sample or one value for all.
            ShapeError: for a tensor without a batch.
        """
        new = {name: checked(name, value) for name, value in conditions.items()}
        return self._with({**self.conditions, **new})

    def with_range(self, found: NoiseRange | None) -> Self:
        """The same network with the noise levels at which it is trusted, or without them.

        Sampling then starts at the highest of them, with the mean and the variance of the data, and
        likelihoods end there.
        """
        if found is not None and not isinstance(found, NoiseRange):
            raise ConfigError(
                f"a range must be a NoiseRange, got {type(found).__name__}; write "
                "model.with_range(noise_range(model, data))"
            )
        model = self._with(self.conditions)
        model.noise_range = found
        return model

    @property
    def floor(self) -> float:
        """See `floor_of`: from the measured range where there is one."""
        found = self.noise_range
        return FLOOR if found is None else found.std / found.high

    def rows(self, index: Tensor) -> Self:
        """See `Predictor`."""
        return self._with(rows_of(self.conditions, index)) if self.conditions else self

    def begin(self) -> Self:
        """The model for one run, which every driver makes before its first step.

        Where no graph is kept it has the network inside `DistributedDataParallel`: the wrapper
        waits for the other ranks at each call, and a run may need more calls on one rank than on
        another. Losses call the wrapper itself.
        """
        if torch.is_grad_enabled() or not isinstance(self.net, nn.Module):
            return self
        net = bare(self.net)
        if net is self.net:
            return self
        model = self._with(self.conditions)
        model.net = net
        return model

    def forward(self, x: Tensor, knot: Knot) -> Prediction:
        """One network evaluation: the prediction at x, shape (B, *), and a knot.

        Raises:
            ShapeError: if the output, or a per-sample condition, does not fit x.
            DtypeError: if the output is not a tensor, or x is not floating point.
            TimeRangeError: at sigma = 0.
            ZeroSNRError: if alpha = 0 and the network predicts eps, the score or F.
            GraphError: if gradients with respect to x are needed and the network cuts them off.
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
                "a network cannot be evaluated at sigma = 0, where there is no noise; call it "
                f"at a time of t_min = {self._sde.t_min:g} or more"
            )
        dtype = self.dtype or x.dtype
        conditions = {name: for_network(name, value, x) for name, value in self.conditions.items()}
        inputs = scale(self.predicts.input_scale(knot), x).to(dtype)
        if inputs is x:
            inputs = x.clone()  # a network may write into what it is given
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
                "ScoreModel(..., output=lambda out: ...) to select the prediction"
            )
        if out.shape != x.shape:
            raise ShapeError(
                f"the network returned shape {tuple(out.shape)} for a state of shape "
                f"{tuple(x.shape)}; write ScoreModel(..., output=lambda out: ...) to select the "
                "prediction (output=LearnedRange() if the network also predicts its variance)"
            )
        # x0, eps and v have a graph through x itself; only the raw output shows a cut.
        if not torch.compiler.is_compiling():
            check_graph(out, x, "the network")
        # A network may return the same tensor at each call, and solvers keep predictions.
        raw = out.clone() if out.dtype == x.dtype else out.to(x.dtype)
        share = None if share is None else share.clone()
        return Prediction(x, knot, raw, self.predicts, share=share)

    def score(self, x: Tensor, t: Scalar) -> Tensor:
        """The score -eps / sigma at x, shape (B, *); t is a float or a tensor (B,)."""
        prediction: Prediction = self(x, self._sde.at(t, like=x))
        return prediction.score

    def extra_repr(self) -> str:
        """The settings that define what the network's input and output mean."""
        return f"sde={self._sde!r}, predicts={self.predicts!r}, time={self.time!r}"

    @property
    def device(self) -> torch.device | None:
        """The device of the network's first parameter or buffer; None for a function."""
        return place(self.net) if isinstance(self.net, nn.Module) else None

    @property
    def dtype(self) -> torch.dtype | None:
        """`net_dtype`, or the dtype of the network's weights; None if there is neither."""
        if self.net_dtype is not None or not isinstance(self.net, nn.Module):
            return self.net_dtype
        return compute_dtype(self.net)

    def _with(self, conditions: dict[str, Any]) -> Self:
        model = copy.copy(self)
        model._modules = self._modules.copy()  # shares the network, but has its own dictionary
        model.training = getattr(self.net, "training", False)
        model.conditions = conditions
        return model

    def _time_tensor(self, knot: Knot, x: Tensor, dtype: torch.dtype) -> Tensor:
        # At least float32: in bfloat16, 999 t would be rounded to multiples of 4.
        kind = torch.promote_types(dtype, torch.float32)
        value = self.time(knot)
        if isinstance(value, Tensor):
            value = value if value.dtype == torch.long else value.to(kind)
            return value.reshape(-1).expand(x.shape[0]).to(x.device).clone()
        if isinstance(value, int):
            kind = torch.long
        return torch.full(x.shape[:1], value, dtype=kind, device=x.device)

    def _explain(self, error: Exception, inputs: Tensor, time: Tensor) -> None:
        """Add a note about the input to the error; raise DtypeError if its dtype is the reason."""
        hidden = self.dtype is None
        words = "dtype", "scalar type", "should be the same"
        if hidden and inputs.dtype != torch.float32 and any(word in str(error) for word in words):
            raise DtypeError(
                f"the dtype in which the network computes is not known (it is a function, or its "
                f"weights are packed); it received {inputs.dtype}, the state's dtype ({error}); "
                "write ScoreModel(..., net_dtype=torch.float32), or pass the module itself"
            ) from error
        error.add_note(
            f"The network was called as net(x, time) with x of shape {tuple(inputs.shape)}, "
            f"{inputs.dtype}, and time of shape {tuple(time.shape)}, {time.dtype}"
            f"{', and ' if self.conditions else ''}{', '.join(self.conditions)}."
        )
        for name, value in self.conditions.items():
            if is_label(value):
                error.add_note(
                    f"The condition {name}={value} was passed as a LongTensor of shape (B,), a "
                    f"label of all samples; write bind({name}=Shared({value})) to pass the number."
                )
        if time.is_floating_point() and ("Long" in str(error) or "indices" in str(error)):
            error.add_note("A network with an embedding table takes whole numbers: time='index'.")


def _plain_output(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out
    return getattr(out, "sample", out)
