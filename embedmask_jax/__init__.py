"""EmbedMask: one-stage instance segmentation in JAX."""

__version__ = '0.1.0'
