"""The Open Inference Protocol, by HTTP and gRPC: models by name, requests put together, limits, a graceful end."""
