"""From text to shards: tokenize, shuffle, write."""
