"""From shards to packed batches: tokenizer, data order, masking, packing, loading."""
