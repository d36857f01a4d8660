"use strict";
// The parts of the lesson that need no run: each draws what one control changes. page.js gives the tools.
const lesson = (() => {
  // The polynomial through points of different x, by barycentric weights.
  function interpolant(points) {
    const weights = points.map(([x], i) => 1 / points.reduce((product, [other], j) => i === j ? product : product * (x - other), 1));
    return x => {
      let above = 0, below = 0;
      for (let i = 0; i < points.length; i++) {
        if (x === points[i][0]) return points[i][1];
        const share = weights[i] / (x - points[i][0]);
        above += share * points[i][1];
        below += share;
      }
      return above / below;
    };
  }
  // All points of de Casteljau's construction at u, level by level.
  function levels(control, u) {
    const found = [control];
    while (found[found.length - 1].length > 1) {
      const last = found[found.length - 1];
      found.push(last.slice(1).map((p, i) => p.map((v, d) => (1 - u) * last[i][d] + u * v)));
    }
    return found;
  }
  // Knots on [0, 1] with ends of full multiplicity and one inner knot of the given multiplicity among simple ones.
  function knots(degree, multiplicity) {
    return [...Array(degree + 1).fill(0), 0.25, ...Array(multiplicity).fill(0.5), 0.75, ...Array(degree + 1).fill(1)];
  }
  function basis(knots, degree, i, x) {
    const one = Array(knots.length - degree - 1).fill(0);
    one[i] = 1;
    return kan.deBoor(knots, degree, one, x);
  }
  // Numbers of a network [inputs, width, ..., width, 1] with `depth` hidden layers.
  function counts(inputs, width, depth, intervals, degree) {
    const shape = [inputs, ...Array(depth).fill(width), 1];
    let edges = 0, nodes = 0;
    for (let l = 1; l < shape.length; l++) { edges += shape[l - 1] * shape[l]; nodes += shape[l]; }
    return {mlp: edges + nodes, kan: edges * (intervals + degree)};
  }
  // f as a sum of hinges max(0, x - t): the line through its values at equally spaced t.
  function hinges(f, count) {
    const t = Array.from({length: count + 1}, (_, i) => -1 + 2 * i / count), y = t.map(f);
    const slopes = t.slice(1).map((_, i) => (y[i + 1] - y[i]) / (t[i + 1] - t[i]));
    return x => slopes.reduce((sum, s, i) => sum + (s - (i ? slopes[i - 1] : 0)) * Math.max(0, x - t[i]), y[0]);
  }

  const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
  // Conjugate gradients (CGLS, Hestenes and Stiefel 1952) for the least squares problem `rows` c = y, from c = 0: the c after `steps`
  // steps, what it leaves of y, and the RMSE after each step. What the rows do not determine stays zero.
  function leastSquares(rows, y, steps) {
    const back = r => rows[0].map((_, j) => rows.reduce((sum, row, i) => sum + row[j] * r[i], 0)), errors = [];
    let c = rows[0].map(() => 0), rest = y, slope = back(y), way = slope, size = dot(slope, slope);
    for (let step = 0; step < steps; step++) {
      if (size > 1e-25) {
        const moved = rows.map(row => dot(row, way)), length = size / dot(moved, moved);
        c = c.map((v, j) => v + length * way[j]);
        rest = rest.map((v, i) => v - length * moved[i]);
        slope = back(rest);
        const next = dot(slope, slope);
        way = slope.map((v, j) => v + next / size * way[j]);
        size = next;
      }
      errors.push(Math.sqrt(dot(rest, rest) / rest.length));
    }
    return {c, rest, errors};
  }
  // The cubic B-splines of a uniform grid on [-1, 1], and the first Chebyshev polynomials: a row of values for each x.
  function splineRows(intervals, xs) {
    const t = Array.from({length: intervals + 7}, (_, i) => -1 + 2 * (i - 3) / intervals);
    return xs.map(x => Array.from({length: intervals + 3}, (_, i) => basis(t, 3, i, x)));
  }
  const polynomialRows = (count, xs) => xs.map(x => Array.from({length: count}, (_, n) => Math.cos(n * Math.acos(x))));
  // a + b g(c x + d) with the smallest error: c and d from a lattice that shrinks around the best place, a and b by least squares.
  function affine(g, xs, ys) {
    const mean = values => dot(values, values.map(() => 1)) / values.length, level = mean(ys), size = dot(ys, ys) - xs.length * level ** 2;
    let best = {rest: 1, c: 1, d: 0, values: xs.map(() => level)};
    for (let reach = 3; reach > 1e-4; reach /= 2) {
      const {c: c0, d: d0} = best;
      for (let i = -6; i <= 6; i++) for (let j = -6; j <= 6; j++) {
        const c = c0 + reach * i / 6, d = d0 + reach * j / 6, values = xs.map(x => g(c * x + d)), middle = mean(values);
        const own = values.map(v => v - middle), b = dot(own, ys) / dot(own, own), rest = 1 - b * dot(own, ys) / size;
        if (rest < best.rest) best = {rest, c, d, values: own.map(v => level + b * v)};
      }
    }
    return best;
  }

  function kinds({make, Plot, slider, range, shown}) {
    // The bar of controls, the sentence below it, and the plot under its title.
    function parts(parent, title, height) {
      const found = [make("div", {class: "bar"}, parent), make("p", {class: "number", role: "status"}, parent)];
      make("p", {class: "source"}, parent, title);
      const plot = new Plot(parent, title, height);
      plot.title = "";
      return [...found, plot];
    }
    // A part with one slider: `draw(plot, number)` returns the sentence below.
    function slid(parent, title, name, labels, start, draw) {
      const [top, said, plot] = parts(parent, title, 320);
      const input = slider(top, name, labels.length, number => { said.textContent = draw(plot, number); }, i => labels[i], start);
      said.textContent = draw(plot, Number(input.value));
      return {get: () => Number(input.value), set: input.setTo};
    }
    // A part with points that move: `draw(plot, points)` returns the sentence below.
    function dragged(parent, title, name, first, draw, held = (_, point) => point) {
      let points = structuredClone(first);
      const [top, said, plot] = parts(parent, title, 340), back = make("button", {class: "plain", type: "button"}, top, "reset");
      function redraw() {
        said.textContent = draw(plot, points);
        plot.handles(points, name, (i, x, y) => { points[i] = held(i, [x, y], points); redraw(); });
      }
      const set = value => { points = value.map(p => [Number(p[0]), Number(p[1])]); redraw(); };
      back.addEventListener("click", () => set(first));
      redraw();
      return {get: () => points, set};
    }
    const xs = range(-1, 1, 401), wave = x => Math.exp(Math.sin(Math.PI * x)) - x * x;

    return {
      layer: parent => dragged(parent, "one neuron: w x + b (dashed) and tanh(w x + b)", "point of the line", [[-1, -2], [1, 2]], (plot, [[x0, y0], [x1, y1]]) => {
        const w = (y1 - y0) / (x1 - x0), b = y0 - w * x0, lines = xs.map(x => w * x + b);
        plot.begin([-1, 1], [-3, 3, ...lines.map(Math.tanh)]);
        plot.line(xs, lines.map(y => Math.abs(y) > 3.3 ? NaN : y), "truth");
        plot.line(xs, lines.map(Math.tanh));
        return `w = ${shown(w)}, b = ${shown(b)}: two numbers; the bend is always that of tanh`;
      }, (i, [, y]) => [i ? 1 : -1, Math.max(-3, Math.min(3, y))]),
      hinges: parent => slid(parent, "a sum of hinges (blue) and a function (dashed)", "hinges", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64].map(String), 3, (plot, number) => {
        const count = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64][number], sum = hinges(wave, count), ys = xs.map(sum), truth = xs.map(wave);
        plot.begin(xs, [...ys, ...truth]);
        plot.line(xs, truth, "truth");
        plot.line(xs, ys);
        return `largest error with ${count} hinges: ${shown(Math.max(...ys.map((y, i) => Math.abs(y - truth[i]))))}`;
      }),
      polynomial: parent => dragged(parent, "the polynomial through the points", "point", [[0, 5], [1, 1], [2, 3], [5, 2]], (plot, points) => {
        const curve = interpolant(points), [low, high] = [Math.min(...points.map(p => p[0])), Math.max(...points.map(p => p[0]))];
        const at = range(low, high, 301), ys = at.map(curve);
        plot.begin([0, 5], [-4, 8, ...ys.filter(y => Math.abs(y) < 40)]);
        plot.line(at, ys);
        return `degree ${points.length - 1}: between the points it reaches ${shown(Math.max(...ys))} and ${shown(Math.min(...ys))}`;
      }, (i, [x, y], points) => [Math.max(i ? points[i - 1][0] + 0.05 : 0, Math.min(points[i + 1] ? points[i + 1][0] - 0.05 : 5, x)), Math.max(-4, Math.min(8, y))]),
      runge: parent => slid(parent, "1/(1 + 25 x²) (dashed) and the polynomial through equally spaced points", "points", range(3, 25, 23).map(String), 8, (plot, number) => {
        const f = x => 1 / (1 + 25 * x * x), points = range(-1, 1, number + 3).map(x => [x, f(x)]), curve = interpolant(points), ys = xs.map(curve);
        plot.begin(xs, [-1, 1.5]);
        plot.line(xs, xs.map(f), "truth");
        plot.line(xs, ys.map(y => y < -1.1 || y > 1.6 ? NaN : y));
        plot.dots(points.map(p => p[0]), points.map(p => p[1]), "data", 3);
        return `largest error of ${points.length} points: ${shown(Math.max(...ys.map((y, i) => Math.abs(y - f(xs[i])))))}`;
      }),
      casteljau: (parent, data) => slid(parent, "means of neighbouring points, until one is left", "u", range(0, 1, 101).map(u => u.toFixed(2)), 40, (plot, number) => {
        const curve = range(0, 1, 201).map(u => kan.deCasteljau(data.control, u)), all = levels(data.control, number / 100);
        plot.begin(data.control.map(p => p[0]), data.control.map(p => p[1]));
        plot.line(curve.map(p => p[0]), curve.map(p => p[1]));
        all.forEach((points, level) => {
          const [px, py] = [points.map(p => p[0]), points.map(p => p[1])];
          plot.line(px, py, level ? "other" : "polygon");
          plot.dots(px, py, points.length === 1 ? "handle" : "data", points.length === 1 ? 6 : 3);
        });
        const [x, y] = all[all.length - 1][0];
        return `${all.length - 1} rounds of means end at (${shown(x)}, ${shown(y)})`;
      }),
      basis: parent => slid(parent, "the cubic B-spline basis; the knot 0.5 has the chosen multiplicity", "multiplicity", ["1", "2", "3"], 0, (plot, number) => {
        const t = knots(3, number + 1), at = range(0, 1, 401), count = t.length - 4;
        plot.begin([0, 1], [0, 1]);
        for (let i = 0; i < count; i++) plot.line(at, at.map(x => basis(t, 3, i, x)), i % 2 ? "other" : "curve");
        plot.dots(t, t.map(() => 0), "data", 4);
        return `${count} functions that sum to 1; at 0.5 they have ${2 - number} continuous derivative${number === 1 ? "" : "s"}`;
      }),
      counts: parent => slid(parent, "numbers to learn over the width (log10): KAN blue, MLP orange", "intervals of the grid", ["3", "5", "10", "20", "50", "100"], 1, (plot, number) => {
        const intervals = [3, 5, 10, 20, 50, 100][number], widths = range(1, 64, 64), all = widths.map(width => counts(4, width, 2, intervals, 3));
        plot.begin(widths, [0, 6]);
        plot.line(widths, all.map(c => Math.log10(c.kan)));
        plot.line(widths, all.map(c => Math.log10(c.mlp)), "other");
        const some = counts(4, 8, 2, intervals, 3);
        return `[4, 8, 8, 1] with degree 3: ${some.kan} numbers in a KAN, ${some.mlp} in an MLP`;
      }),
      staircase: parent => {
        const grids = [4, 8, 16, 32, 64], x = range(-1, 1, 301), steps = 25, errors = [];
        grids.reduce((rest, intervals) => {  // the finer grid holds the coarser spline: it starts at what that one left
          const found = leastSquares(splineRows(intervals, x), rest, steps);
          errors.push(...found.errors);
          return found.rest;
        }, x.map(wave));
        const logs = errors.map(Math.log10), at = logs.map((_, i) => i + 1);
        return slid(parent, "log10 of the RMSE over the steps of training", "intervals of the last grid", grids.map(String), 4, (plot, number) => {
          const done = steps * (number + 1);
          plot.begin(at, logs);
          plot.line(at, logs, "unseen");
          plot.line(at.slice(0, done), logs.slice(0, done));
          return `RMSE after ${done} steps: ${shown(errors[done - 1])}`;
        });
      },
      formula: parent => {
        const known = [["x", x => x], ["x²", x => x * x], ["exp", Math.exp], ["tanh", Math.tanh], ["1/(1 + x²)", x => 1 / (1 + x * x)], ["sin", Math.sin]];
        const x = range(-1, 1, 81), edge = x.map(v => 0.3 + 0.7 * Math.sin(2.6 * v + 0.5) + 0.004 * Math.sin(25 * v));
        return slid(parent, "the spline of an edge (dashed) and a + b g(c x + d), fitted to it (blue)", "g", known.map(([name]) => name), 1, (plot, number) => {
          const {rest, values} = affine(known[number][1], x, edge);
          plot.begin(x, [...edge, ...values]);
          plot.line(x, values);
          plot.line(x, edge, "truth");
          return `1 - R² = ${shown(rest)}`;
        });
      },
      phases: parent => {
        const centres = range(-0.8, 0.8, 5), f = x => centres.reduce((sum, m) => sum + Math.exp(-200 * (x - m) ** 2), 0), truth = xs.map(f);
        const learners = {curve: [at => splineRows(40, at), 60], other: [at => polynomialRows(20, at), 5]}, after = {curve: [], other: []};
        for (const [style, [rowsAt, steps]] of Object.entries(learners)) {
          const everywhere = rowsAt(xs);
          let c = everywhere[0].map(() => 0);
          for (const centre of centres) {
            const seen = range(centre - 0.2, centre + 0.2, 60), rows = rowsAt(seen);
            const change = leastSquares(rows, seen.map((x, i) => f(x) - dot(rows[i], c)), steps).c;
            c = c.map((v, j) => v + change[j]);
            after[style].push(everywhere.map(row => dot(row, c)));
          }
        }
        return slid(parent, "five peaks (dashed), learned from left to right by a spline (blue) and a polynomial (orange)", "phase", range(1, 5, 5).map(String), 4, (plot, number) => {
          plot.begin(xs, [-1, 2.2]);
          plot.line(xs, truth, "truth");
          for (const style of ["other", "curve"]) plot.line(xs, after[style][number], style);
          const errors = ["curve", "other"].map(style => Math.max(...after[style][number].map((y, i) => xs[i] <= centres[number] + 0.2 ? Math.abs(y - truth[i]) : 0)));
          return `largest error on what was shown so far: spline ${shown(errors[0])}, polynomial ${shown(errors[1])}`;
        });
      },
    };
  }
  return {interpolant, levels, knots, basis, counts, hinges, leastSquares, splineRows, affine, kinds};
})();
if (typeof module !== "undefined") module.exports = lesson;
