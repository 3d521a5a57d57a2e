"""What stands behind the `tensorrt` backend: CUDA, NVIDIA's two packages, the engine cache, execution, inspection."""
