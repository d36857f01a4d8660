"""Trained models: predicting, explaining, updating, storing and loading them.

One idea: a trained network with names and units (`trained.py`) is plain data, and each file adds
one thing that can be done with it. The files import one way:

    checkpoints | trained <- prediction <- effects <- summary | update <- model <- loaded_run

`Model` is what users have; its methods check their arguments and call the functions beneath.
"""
