"""Models whose answers are known: Gaussians and Gaussian mixtures in closed form, and problems."""

from .mixtures import Covariance, Gaussian, GaussianMixture

__all__ = ["Covariance", "Gaussian", "GaussianMixture"]
