"""Files below a local directory (a slow disk, a network mount), for fscache."""
