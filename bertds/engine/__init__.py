"""DeepSpeed and the process group. The only package that imports DeepSpeed."""
