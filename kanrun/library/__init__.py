"""The Python library on top of the experiments: fitting data in memory, and scikit-learn's estimators."""
