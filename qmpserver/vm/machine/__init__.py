"""The machine that commands control: its run states, its guest program, its objects."""
