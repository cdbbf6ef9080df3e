"""Compression: low rank, masks, lottery tickets, sparse generators, ensembles of sparse experts. Nothing here knows a training loop."""
