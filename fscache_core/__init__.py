"""The core of fscache: cookies, objects and operations between netfs adapters and cache backends."""
