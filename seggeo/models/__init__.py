"""Segmenters: one module per model, each loaded by its entry point and known to nothing else."""
