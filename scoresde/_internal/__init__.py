"""Shared parts that are not public: they may change without notice."""
