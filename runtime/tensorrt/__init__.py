"""What a TensorRT engine on disk is, when it may run here, and CUDA for running it; the engine itself is in runtime.engines."""
