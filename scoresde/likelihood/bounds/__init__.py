r"""Variational bounds of the likelihood, by Monte Carlo.

With q the noising of x0 and p the model's generation, backwards in time from a prior,

    E_q[-log p(x_s)] <= H(q(x_s | x0)) + KL(q(x_T | x0) || prior) + sum or integral of KLs between

and for integers k the reconstruction -log P(k | x_s) takes the place of the entropy. The times are
cut into T steps in `ddpm_bound` (Ho et al., "Denoising Diffusion Probabilistic Models", 2020, eq.
5: L_0, ..., L_T), or infinitely many in `variational_bound`, where with lam = log(alpha/sigma) what
is between becomes

    integral of E |eps - eps_net|^2 dlam

(Kingma et al., "Variational Diffusion Models", 2021, eq. 17 and appendix K; Song et al., "Maximum
Likelihood Training of Score-Based Diffusion Models", 2021, theorem 1). Both bound the likelihood of
the model's SDE; `log_likelihood` is the density of its ODE. For a network that is the exact score
of some density the two densities agree, and the continuous bound is met.
"""

from .common import Bound
from .continuous_time import Measured, measured_times, variational_bound
from .discrete_time import ddpm_bound

__all__ = ["Bound", "Measured", "ddpm_bound", "measured_times", "variational_bound"]
