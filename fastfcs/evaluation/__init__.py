"""How good the results are, in numbers and side by side: ``fastfcs evaluate``."""
