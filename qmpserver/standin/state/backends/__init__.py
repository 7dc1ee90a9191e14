"""What devices are connected to: character devices, network backends, objects, and others."""
