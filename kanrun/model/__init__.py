"""Trained models: predicting, explaining, updating, storing and loading them.

`trained.py` defines a trained network with its names and units, as plain data. Each of the other
files adds one task, such as prediction. A file imports only files to its left:

    checkpoints | trained <- prediction <- effects <- summary | update <- model <- loaded_run

`Model` is the class for users; its methods check their arguments and call the functions in the
other files.
"""
