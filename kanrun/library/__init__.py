"""The Python library: fitting data in memory, and estimators for scikit-learn."""
