"""What is measured: loss, accuracy, baselines, throughput, MFU, step times."""
