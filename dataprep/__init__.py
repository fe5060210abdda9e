"""From files, the hub or the story world to shards of token ids on disk."""
