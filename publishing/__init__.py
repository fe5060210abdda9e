"""Everything that leaves or enters the project: GGUF, model cards, downloads, published weights."""
