def pytest_addoption(parser):
    parser.addoption("--seconds", type=float, default=0.5, help="CPU seconds of each fuzzer")
