"""For authors of backends and netfs adapters: conformance kits, servers to test against, fault injection."""
