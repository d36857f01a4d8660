"""Trained models: predicting, explaining, updating, storing and loading them.

A trained network with its names and units (`trained.py`) is plain data, and each other file adds
one thing that can be done with it. The imports between the files go one way:

    checkpoints | trained <- prediction <- effects <- summary | update <- model <- loaded_run

`Model` is the class for users; its methods check their arguments and call the functions in the
other files.
"""
