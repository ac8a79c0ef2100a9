"""What ``core.evaluate`` is made of: where the model comes from, the shared work, intervals, the result card."""
