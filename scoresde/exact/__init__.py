"""Models whose answers are known: Gaussians and Gaussian mixtures in closed form, and problems."""

from .mixtures import Gaussian, GaussianMixture, diagonal, full, isotropic, low_rank

__all__ = ["Gaussian", "GaussianMixture", "diagonal", "full", "isotropic", "low_rank"]
