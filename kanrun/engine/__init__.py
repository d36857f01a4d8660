"""The shared KAN engine: splines <- layers <- networks <- {training, symbolic}."""
