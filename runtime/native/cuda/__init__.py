"""STAR-64 in FP16 on an NVIDIA GPU: kernels of our own, built with nvcc where they are used."""
