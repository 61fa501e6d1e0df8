"""DreamFusion (Poole et al. 2022, arXiv 2209.14988): text-to-3D by score distillation sampling."""

__version__ = "0.1.0"
