"""Learning on the device that the worlds are simulated on: nothing is copied to the host step by step."""
