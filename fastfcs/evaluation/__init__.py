"""Quantitative and visual evaluation of results: the command ``fastfcs evaluate``."""
