"""A cache in a directory, shared by any number of processes: the cachefiles backend of fscache."""
