"""Interfaces to the outside: GGUF files, model cards, downloads from the hub, published weights."""
