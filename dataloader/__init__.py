"""From shards on disk to batches: rows, packing, preference pairs, order and position."""
