"""Where the heads of SpikingJelly's own models and example networks sit, and whether rightly."""
