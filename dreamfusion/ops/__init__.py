"""Device-dependent operations of the renderer: `hash_encode`, `hash_field`, `march`, `composite` and others.

Each has a torch reference, numba kernels for the CPU and, for some, an adapter to CUDA kernels (tiny-cuda-nn, nerfacc),
all with the same contract; `backend.py` selects one. Heavy libraries are imported at the first call.
"""
