"""Latencies of edges, measured on this device, kept with what they depend on, and checked."""
