"""What a network needs on a device: latency, latency tables, memory."""
