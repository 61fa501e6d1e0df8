"""The device-dependent operations of the renderer: `hash_encode` and `hash_field`, `march`, `composite`.

Each has a readable torch reference, numba kernels for the CPU and an adapter to CUDA kernels (tiny-cuda-nn, nerfacc),
all with one contract; `backend.py` chooses. Nothing heavy is imported before the first call.
"""
