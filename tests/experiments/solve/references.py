"""Reference solutions of equations in conf/equation by independent methods.

Run as a script, it writes experiments/solve/references/*.csv: a table per equation with points and
values of the unknowns. Periodic equations are integrated by ETDRK4 in Fourier space (Cox and
Matthews 2002; coefficients by contour integrals, Kassam and Trefethen 2005). Burgers' equation is
solved by the transformation of Cole and Hopf, and the cavity by Chebyshev collocation.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parents[3] / "experiments/solve/references"
#: Number of points of a table along each variable.
POINTS = 64
#: Number of nodes on a contour.
CONTOUR = 64


def etdrk4(linear, nonlinear, start, end, steps):
    """Integrate v_t = linear v + nonlinear(v) from 0 to `end`, separately for each component."""
    h = end / steps
    circle = np.exp(2j * np.pi * (np.arange(CONTOUR) + 0.5) / CONTOUR)
    z = h * linear[..., None] + circle
    whole = np.exp(h * linear)
    half = np.exp(h * linear / 2)
    to_half = h * np.mean((np.exp(z / 2) - 1) / z, axis=-1)
    first = h * np.mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3, axis=-1)
    middle = 2 * h * np.mean((2 + z + np.exp(z) * (z - 2)) / z**3, axis=-1)
    last = h * np.mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3, axis=-1)
    v = start
    for _ in range(steps):
        n = nonlinear(v)
        a = half * v + to_half * n
        n_a = nonlinear(a)
        b = half * v + to_half * n_a
        n_b = nonlinear(b)
        c = half * a + to_half * (2 * n_b - n)
        v = whole * v + first * n + middle * (n_a + n_b) + last * nonlinear(c)
    return v


def _waves(low, high, count):
    """Return equally spaced points of a period, and the wave numbers of a discrete transform."""
    x = low + (high - low) * np.arange(count) / count
    return x, 2 * np.pi / (high - low) * np.fft.fftfreq(count, 1 / count)


def _flux(k):
    """Return a function that computes the Fourier transform of -u u_x from that of u.

    The upper third of the frequencies is set to zero to avoid aliasing.
    """
    kept = np.abs(k) < 2 / 3 * np.abs(k).max()
    return lambda v: -0.5j * k * kept * np.fft.fft(np.fft.ifft(v).real ** 2)


def kdv_cosine(count=512, steps=8000):
    x, k = _waves(-1, 1, count)
    start = np.fft.fft(np.cos(np.pi * x))
    v = etdrk4(1j * 0.022**2 * k**3, _flux(k), start, 1.0, steps)
    return _table(x, 1.0, u=np.fft.ifft(v).real)


def allen_cahn(count=4096, steps=2000):
    x, k = _waves(-1, 1, count)

    def reaction(v):
        return np.fft.fft(-5 * np.fft.ifft(v).real ** 3)

    v = etdrk4(5 - 1e-4 * k**2 + 0j, reaction, np.fft.fft(x**2 * np.cos(np.pi * x)), 1.0, steps)
    return _table(x, 1.0, u=np.fft.ifft(v).real)


def kuramoto_sivashinsky(count=512, steps=20_000):
    x, k = _waves(0, 2 * np.pi, count)
    flux = _flux(k)
    linear = 100 / 16**2 * k**2 - 100 / 16**4 * k**4 + 0j
    start = np.fft.fft(np.cos(x) * (1 + np.sin(x)))
    v = etdrk4(linear, lambda v: 100 / 16 * flux(v), start, 1.0, steps)
    return _table(x, 1.0, u=np.fft.ifft(v).real)


def schroedinger(count=2048, steps=8000):
    x, k = _waves(-5, 5, count)

    def cubic(v):
        h = np.fft.ifft(v)
        return np.fft.fft(1j * np.abs(h) ** 2 * h)

    end = np.pi / 2
    h = np.fft.ifft(etdrk4(-0.5j * k**2, cubic, np.fft.fft(2 / np.cosh(x) + 0j), end, steps))
    return _table(x, end, u=h.real, v=h.imag)


def gray_scott(count=1024, steps=16_000):
    x, k = _waves(-50, 50, count)
    bump = np.exp(-(x**2) / 20)

    def reaction(w):
        u, v = np.fft.ifft(w).real
        return np.fft.fft(np.stack([0.04 - u * v**2, u * v**2]))

    linear = np.stack([-(k**2) - 0.04, -0.01 * k**2 - 0.1]) + 0j
    start = np.fft.fft(np.stack([1 - bump / 2, bump / 4]))
    u, v = np.fft.ifft(etdrk4(linear, reaction, start, 200.0, steps)).real
    return _table(x, 200.0, u=u, v=v)


def sine_gordon(count=512, steps=4000):
    """Integrate the sine-Gordon equation in the variables w = u_t + i k' u and u_t - i k' u.

    With k'^2 = k^2 + 1, each of them only rotates, except for the force u - sin(u).
    """
    x, k = _waves(-20, 20, count)
    turning = 1j * np.sqrt(k**2 + 1)

    def restoring(w):
        u = np.fft.ifft((w[0] - w[1]) / (2 * turning)).real
        return np.stack([np.fft.fft(u - np.sin(u))] * 2)

    start = np.stack([np.fft.fft(2 * np.sqrt(3) / np.cosh(np.sqrt(3) * x / 2))] * 2)
    w = etdrk4(np.stack([turning, -turning]), restoring, start, 20.0, steps)
    return _table(x, 20.0, u=np.fft.ifft((w[0] - w[1]) / (2 * turning)).real)


def burgers(count=64, nodes=200):
    viscosity = 0.01 / np.pi
    x = np.linspace(-1, 1, count + 1)
    at, weights = np.polynomial.hermite.hermgauss(nodes)
    origin = x[:, None] - np.sqrt(4 * viscosity) * at
    shares = weights * np.exp(-np.cos(np.pi * origin) / (2 * np.pi * viscosity))
    return _table(x, 1.0, u=-(np.sin(np.pi * origin) * shares).sum(1) / shares.sum(1))


def cavity(size=40, viscosities=(0.01,)):
    """Solve for the stream function at Chebyshev points; return values at equally spaced points.

    The equation is solved with each of the `viscosities`, starting from the previous solution.
    The rows of the second points from the walls are replaced by conditions on the slopes
    (Trefethen, Spectral Methods in MATLAB, 2000).
    """
    chebyshev = np.polynomial.chebyshev
    points = chebyshev.chebpts2(size + 1)
    one = np.eye(size + 1)
    inverse = np.linalg.inv(chebyshev.chebvander(points, size))
    d = 2 * chebyshev.chebval(points, chebyshev.chebder(one)).T @ inverse
    nodes = (points + 1) / 2
    dx = np.kron(d, one)
    dy = np.kron(one, d)
    laplace = np.kron(d @ d, one) + np.kron(one, d @ d)
    bend = laplace @ laplace
    dx_laplace = dx @ laplace
    dy_laplace = dy @ laplace
    number = np.arange((size + 1) ** 2).reshape(size + 1, size + 1)
    border = np.unique(np.concatenate([number[[0, -1]].ravel(), number[:, [0, -1]].ravel()]))
    second = [number[1, 1:-1], number[-2, 1:-1], number[2:-2, 1], number[2:-2, -2]]
    walls = [number[0, 1:-1], number[-1, 1:-1], number[2:-2, 0], number[2:-2, -1]]
    lid = 4 * nodes[2:-2] * (1 - nodes[2:-2])
    stream = np.zeros((size + 1) ** 2)
    for viscosity in np.repeat(viscosities, 8):
        u = dy @ stream
        v = -dx @ stream
        vorticity = laplace @ stream
        residual = u * (dx @ vorticity) + v * (dy @ vorticity) - viscosity * (bend @ stream)
        jacobian = u[:, None] * dx_laplace + v[:, None] * dy_laplace - viscosity * bend
        jacobian += (dx @ vorticity)[:, None] * dy - (dy @ vorticity)[:, None] * dx
        slopes = zip(second, walls, (dx, dx, dy, dy), (0, 0, 0, lid), strict=True)
        for row, wall, slope, given in slopes:
            jacobian[row], residual[row] = slope[wall], slope[wall] @ stream - given
        jacobian[border], residual[border] = np.eye(len(stream))[border], stream[border]
        stream = stream - np.linalg.solve(jacobian, residual)
    even = (np.arange(16) + 0.5) / 16
    table = chebyshev.chebvander(2 * even - 1, size) @ inverse
    values = table @ stream.reshape(size + 1, size + 1) @ table.T
    x, y = (each.ravel() for each in np.meshgrid(even, even, indexing="ij"))
    return pd.DataFrame({"x": x, "y": y, "s": values.ravel()})


def _table(x, end, **unknowns):
    every = max(1, len(x) // POINTS)
    columns = {"x": x, "t": np.full(len(x), end), **unknowns}
    return pd.DataFrame({name: values[::every] for name, values in columns.items()})


#: Arguments of coarser computations, and their largest difference from the tables.
COARSER = {
    kdv_cosine: ((384, 4000), 3e-8),
    allen_cahn: ((2048, 1000), 1e-9),
    burgers: ((64, 120), 1e-11),
    kuramoto_sivashinsky: ((384, 10_000), 1e-6),
    schroedinger: ((1024, 8000), 5e-6),
    gray_scott: ((768, 8000), 1e-7),
    sine_gordon: ((384, 2000), 1e-8),
    cavity: ((32,), 1e-5),
}
REFERENCES = {each.__name__: each for each in COARSER}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or REFERENCES:
        REFERENCES[name]().to_csv(FOLDER / f"{name}.csv", index=False)
