"""Turns raw text into a tokenizer and webdataset shards: `python -m data_prep`."""
