"""Devices of the guest: their types, buses and addresses, plugging, and what some of them tell."""
