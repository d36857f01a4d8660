"use strict";
// A network in the form of all exports (kanrun/exports/document.py), evaluated as the engine does, in plain arithmetic: splines by
// the Cox-de Boor recursion, base functions, nodes that multiply, maps of inputs and outputs.
const kan = (() => {
  const sigmoid = x => 1 / (1 + Math.exp(-x));
  // Abramowitz & Stegun 7.1.6 near zero, the continued fraction 7.1.14 beyond.
  function erf(x) {
    const size = Math.abs(x);
    if (size < 3) {
      let term = size, sum = size;
      for (let n = 1; n < 120 && Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
        term *= 2 * size * size / (2 * n + 1);
        sum += term;
      }
      return Math.sign(x) * 2 / Math.sqrt(Math.PI) * Math.exp(-size * size) * sum;
    }
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (size + fraction);
    return Math.sign(x) * (1 - Math.exp(-size * size) / Math.sqrt(Math.PI) / (size + fraction));
  }
  const bases = {
    zero: [() => 0, () => 0],
    identity: [x => x, () => 1],
    silu: [x => x * sigmoid(x), x => { const s = sigmoid(x); return s * (1 + x * (1 - s)); }],
    tanh: [Math.tanh, x => 1 - Math.tanh(x) ** 2],
    relu: [x => Math.max(0, x), x => x > 0 ? 1 : 0],
    gelu: [x => x * 0.5 * (1 + erf(x / Math.SQRT2)),
           x => 0.5 * (1 + erf(x / Math.SQRT2)) + x * Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI)],
    sigmoid: [sigmoid, x => { const s = sigmoid(x); return s * (1 - s); }],
    sin: [Math.sin, Math.cos],
    gaussian: [x => Math.exp(-x * x), x => -2 * x * Math.exp(-x * x)],
  };

  // The index j with knots[j] <= x < knots[j + 1], held inside the domain.
  function spanOf(knots, degree, x) {
    let low = degree, high = knots.length - degree - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (x >= knots[middle]) low = middle; else high = middle - 1;
    }
    return low;
  }

  // sum_i c_i B_i(x) by de Boor's recursion on the degree + 1 coefficients that reach the span; also of curves.
  function deBoor(knots, degree, coefficients, x) {
    const span = spanOf(knots, degree, x), d = [];
    for (let j = 0; j <= degree; j++) d[j] = coefficients[j + span - degree];
    for (let r = 1; r <= degree; r++) {
      for (let j = degree; j >= r; j--) {
        const left = knots[j + span - degree], right = knots[j + 1 + span - r];
        const share = right > left ? (x - left) / (right - left) : 0;
        d[j] = (1 - share) * d[j - 1] + share * d[j];
      }
    }
    return d[degree];
  }

  function slopeOf(knots, degree, coefficients, x) {
    if (degree === 0) return 0;
    const c = [];
    for (let i = 0; i + 1 < coefficients.length; i++) {
      c[i] = degree * (coefficients[i + 1] - coefficients[i]) / (knots[i + degree + 1] - knots[i + 1]);
    }
    return deBoor(knots.slice(1, -1), degree - 1, c, x);
  }

  // The document with its edges as arrays [out][in]: coefficients of splines, weights of splines and of bases.
  function prepared(document) {
    const table = (rows, columns, value) => Array.from({length: rows}, () => Array.from({length: columns}, value));
    const layers = document.layers.map(layer => {
      const count = layer.knots[0].length - layer.degree - 1, {sums, inputs} = layer;
      const arrays = {coefficients: table(sums, inputs, () => Array(count).fill(0)), splineWeight: table(sums, inputs, () => 0),
        baseWeight: table(sums, inputs, () => 0)};
      for (const {from, to, coefficients, base_weight} of layer.edges) {
        arrays.coefficients[to][from] = [...coefficients];
        arrays.splineWeight[to][from] = 1;
        arrays.baseWeight[to][from] = base_weight;
      }
      return {...layer, ...arrays};
    });
    return {...document, layers};
  }

  function continued(x, low, high, how, value, slope) {
    const held = Math.min(Math.max(x, low), high);
    if (held === x || Number.isNaN(x)) return value(x);
    if (how === "zero") return 0;
    return value(held) + (how === "linear" ? (x - held) * slope(held) : 0);
  }

  function ends(layer, i) {
    const knots = layer.knots[i];
    return [knots[layer.degree], knots[knots.length - 1 - layer.degree]];
  }

  // phi_oi(x) of one edge.
  function edge(layer, o, i, x) {
    const knots = layer.knots[i], degree = layer.degree, c = layer.coefficients[o][i], [low, high] = ends(layer, i);
    let y = 0;
    if (layer.splineWeight[o][i] !== 0) {
      y += layer.splineWeight[o][i] * continued(x, low, high, layer.extrapolation,
        at => deBoor(knots, degree, c, at), at => slopeOf(knots, degree, c, at));
    }
    if (layer.baseWeight[o][i] !== 0 && layer.base !== "zero") {
      const [b, slope] = bases[layer.base];
      y += layer.baseWeight[o][i] * (layer.extrapolation === "base" ? b(x) : continued(x, low, high, layer.extrapolation, b, slope));
    }
    return y;
  }

  const sumsOf = (layer, x) => layer.coefficients.map((row, o) => row.reduce((sum, _, i) => sum + edge(layer, o, i, x[i]), 0));

  // The last 2 m sums of a layer are the factors of m products.
  function nodes(sums, products) {
    const plain = sums.length - 2 * products, values = sums.slice(0, plain);
    for (let p = 0; p < products; p++) values.push(sums[plain + 2 * p] * sums[plain + 2 * p + 1]);
    return values;
  }

  function activations(model, x) {
    const found = [x.map((v, j) => mapped(v, model.input_map[j]))];
    model.layers.forEach((layer, l) => found.push(nodes(sumsOf(layer, found[l]), layer.products)));
    return found;
  }

  function interpolated(x, from, to) {
    if (x <= from[0]) return to[0];
    for (let i = 1; i < from.length; i++) {
      if (x <= from[i]) return to[i - 1] + (to[i] - to[i - 1]) * (x - from[i - 1]) / (from[i] - from[i - 1]);
    }
    return to[to.length - 1];
  }
  const mapped = (v, map) => map.points ? interpolated(v, map.points, map.values) : (v - map.shift) / map.scale;
  const unmapped = (v, map) => map.points ? interpolated(v, map.values, map.points) : v * map.scale + map.shift;

  // f(x) in the user's units.
  const predict = (model, x) => activations(model, x)[model.layers.length].map((v, o) => unmapped(v, model.output_map[o]));

  function deCasteljau(control, u) {
    let points = control;
    while (points.length > 1) {
      points = points.slice(1).map((p, i) => p.map((v, d) => (1 - u) * points[i][d] + u * v));
    }
    return points[0];
  }

  return {prepared, predict, activations, edge, ends, deBoor, deCasteljau};
})();
if (typeof module !== "undefined") module.exports = kan;
