"""Foundations of every script: errors, files, checksums, the hub, processes and devices."""
