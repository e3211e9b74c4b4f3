"""The needs of a network on a device: latency, latency tables, memory."""
