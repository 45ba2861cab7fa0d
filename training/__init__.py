"""Networks, losses, training data, training, export and scores; run as `python -m training`."""
