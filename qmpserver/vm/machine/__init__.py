"""What is controlled: RAM, vCPUs, run states, guest programs."""
