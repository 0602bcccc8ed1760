"""From shards to packed batches: tokenizer, order, masking, packing, loading."""
