"""Resources of an HTTP server, for fscache."""
