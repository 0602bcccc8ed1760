"""The stages from text to shards: tokenize, shuffle and split, write."""
