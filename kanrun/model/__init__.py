"""Trained models: their settings, planning of a training, predicting, explaining and storing.

`settings.py` and `planning.py` come before training: the settings of models and solvers, and what
the engine is given. `trained.py` defines a trained network with its names and units as plain data,
its checkpoints and its predictions; `model.py` adds `Model`, the class for users, and stored runs.
"""
