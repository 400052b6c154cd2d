"""Figures: what sessiond costs, each measured beside its limit in the same run."""
