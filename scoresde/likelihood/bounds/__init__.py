r"""Variational bounds of the likelihood, by Monte Carlo.

Let q be the noising process of x0, and p the model's generative process, from a prior backwards in
time. Then

    E_q[-log p(x_s)] <= H(q(x_s | x0)) + KL(q(x_T | x0) || prior) + KLs from T to s

For integers k, the reconstruction term -log P(k | x_s) replaces the entropy H. `ddpm_bound` has T
steps (Ho et al., "Denoising Diffusion Probabilistic Models", 2020, eq. 5: L_0, ..., L_T).
`variational_bound` has infinitely many. With lam = log(alpha/sigma), its KLs from T to s become

    integral of E |eps - eps_net|^2 dlam

(Kingma et al., "Variational Diffusion Models", 2021, eq. 17 and appendix K; Song et al., "Maximum
Likelihood Training of Score-Based Diffusion Models", 2021, theorem 1). Both bound the likelihood of
the model's SDE; `log_likelihood` is the density of its ODE. If the network is the exact score of a
density, the two densities are equal, and the continuous bound is an equality.
"""

from .common import Bound
from .continuous_time import Measured, measured_times, variational_bound
from .discrete_time import ddpm_bound

__all__ = ["Bound", "Measured", "ddpm_bound", "measured_times", "variational_bound"]
