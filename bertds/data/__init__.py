"""Text to packs: tokenizer, shards, order, masks, packing. Numpy only, no torch."""
