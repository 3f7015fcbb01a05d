"""A cache in the memory of one process: the memory backend of fscache."""
