"""Trained models: predicting, explaining, storing and loading them.

`trained.py` defines a trained network with its names and units, as plain data, and its checkpoints.
Each of the other files adds one task, such as prediction. A file imports only files to its left:

    trained <- prediction <- explanation <- model <- loaded_run

`Model` is the class for users, which derives from the classes in these files.
"""
