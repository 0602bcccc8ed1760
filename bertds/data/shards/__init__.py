"""The shard format: writing, reading, verifying, and caching remote shards."""
