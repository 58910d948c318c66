"""Wrappers that take a predictor and are one: they compose with every solver."""
