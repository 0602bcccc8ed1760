"""Metrics: loss, accuracy, the unigram baseline, throughput, MFU, step times."""
