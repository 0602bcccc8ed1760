"""Raw text to a tokenizer and webdataset shards: `python -m data_prep`."""
