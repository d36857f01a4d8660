"use strict";
/* A trained model as JavaScript without dependencies, in the units of its data.

   predict({column: value, ...})    a row, with the names in MODEL.columns; values are numbers, texts, or dates as Date
                                    or as days since 1970-01-01; null, NaN and the values that the column lists as
                                    missing are missing
   predict([number, ...])           the numbers of MODEL.inputs

   Both return one number for each of MODEL.outputs; a classifier returns probabilities in the order of MODEL.classes.
   In a web page, load the file by <script src>; in Node, by const { predict } = require("./model.js"). */

/* The model. */

const DAY = 864e5;

const PARTS = {
  "day of year": (days) => {
    const year = new Date(Math.floor(days) * DAY);
    year.setUTCMonth(0, 1);
    return Math.floor(days) - year / DAY + 1;
  },
  weekday: (days) => (((Math.floor(days) + 3) % 7) + 7) % 7, // 0 is Monday
  hour: (days) => (days - Math.floor(days)) * 24,
};

/* Convert a value of a numeric column or a date to a number; NaN if it is missing. */
function numberOf(column, value) {
  const text = typeof value === "string" ? value.trim() : value;
  if (text === null || text === undefined || text === "") return NaN;
  if (column.parts && text instanceof Date) return text / DAY;
  const number = Number(text);
  const marks = column.missing.filter((mark) => mark !== "").map((mark) => (mark === "inf" ? Infinity : Number(mark)));
  if (column.missing.includes(String(text).toLowerCase()) || (!column.parts && marks.includes(number))) return NaN;
  if (Number.isNaN(number) && !Number.isNaN(text)) {
    throw new Error(`${column.name}: ${text} is not a number${column.parts ? " or a Date" : ""}`);
  }
  return number;
}

/* Encode a value of a column as inputs. */
function featuresOf(column, value) {
  if (column.levels) {
    const missing = value === null || value === undefined || Number.isNaN(value) || String(value).trim() === "";
    const text = missing ? "(missing)" : String(value).trim();
    return column.levels.map((level) => Number(level === text));
  }
  const number = numberOf(column, value);
  const missing = Number.isNaN(number);
  if (missing && column.fill === null) throw new Error(`${column.name} is missing, and the model was trained on no gaps`);
  const filled = missing ? column.fill : number;
  const parts = (column.parts || []).map((part) => PARTS[part](filled));
  return [filled, ...parts, ...(column.indicator ? [Number(missing)] : [])];
}

const sigmoid = (x) => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));

/* Base functions and activation functions by name, each with its derivative. */
const BASES = {
  zero: [() => 0, () => 0],
  identity: [(x) => x, () => 1],
  silu: [(x) => x * sigmoid(x), (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x)))],
  sigmoid: [sigmoid, (x) => sigmoid(x) * (1 - sigmoid(x))],
  tanh: [Math.tanh, (x) => 1 - Math.tanh(x) ** 2],
  relu: [(x) => Math.max(x, 0), (x) => Number(x > 0)],
  sin: [Math.sin, Math.cos],
  gaussian: [(x) => Math.exp(-x * x), (x) => -2 * x * Math.exp(-x * x)],
};

const clip = (x, low, high) => Math.min(Math.max(x, low), high);

/* Return the index of the interval between increasing points that contains x; the first or last if x is outside. */
function intervalOf(points, x) {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x >= points[middle]) low = middle;
    else high = middle;
  }
  return low;
}

function interpolated(points, values, x) {
  const i = intervalOf(points, x);
  const share = clip((x - points[i]) / (points[i + 1] - points[i]), 0, 1);
  return values[i] + share * (values[i + 1] - values[i]);
}

/* Return the value of an edge: a polynomial in u, which runs from -1 to 1 over the interval, plus the weighted base
   function; extrapolated outside the grid. */
function edgeValue(layer, edge, x) {
  const points = layer.breakpoints[edge.from];
  const [low, high] = [points[0], points[points.length - 1]];
  const held = clip(x, low, high);
  if (layer.extrapolation === "zero" && held !== x) return 0;
  const i = intervalOf(points, held);
  const steep = 2 / (points[i + 1] - points[i]);
  const u = (held - points[i]) * steep - 1;
  const linear = layer.extrapolation === "linear";
  let [value, slope] = [0, 0];
  for (let power = layer.degree; power >= 0; power--) {
    slope = slope * u + value;
    value = value * u + edge.pieces[i][power];
  }
  if (linear) value += clip(x - held, -1e154, 1e154) * steep * slope;
  const [base, baseSlope] = BASES[layer.base];
  const bent = base(layer.extrapolation === "base" ? x : held) + (linear ? (x - held) * baseSlope(held) : 0);
  return value + edge.base_weight * bent;
}

const LAYERS = {
  splines(layer, x) {
    const sums = new Array(layer.sums).fill(0);
    for (const edge of layer.edges) sums[edge.to] += edgeValue(layer, edge, x[edge.from]);
    const nodes = sums.slice(0, layer.sums - 2 * layer.products);
    for (let i = nodes.length; i < layer.sums; i += 2) nodes.push(sums[i] * sums[i + 1]);
    return nodes;
  },
  radial(layer, x) {
    const sums = LAYERS.splines(layer.splines, x).map((sum, o) => sum + layer.level[o]);
    if (!layer.centres.length) return sums;
    const ranks = layer.ranks.map((unit, i) => interpolated(unit.points, unit.values, x[i]));
    layer.centres.forEach((centre, c) => {
      let [smooth, rough] = [0, 0];
      x.forEach((each, i) => {
        smooth += (layer.smooth_rates[i] * (each - centre[i]) ** 2) / 2;
        rough += layer.rough_rates[i] * Math.abs(ranks[i] - layer.ranked[c][i]);
      });
      for (let o = 0; o < sums.length; o++) {
        sums[o] += layer.heights[0][o][c] * Math.exp(-smooth) + layer.heights[1][o][c] * Math.exp(-rough);
      }
    });
    return sums;
  },
  dense(layer, x) {
    const [activation] = BASES[layer.activation];
    return layer.weights.map((row, o) => activation(row.reduce((sum, w, i) => sum + w * x[i], layer.biases[o])));
  },
};

function predict(row) {
  let x = Array.isArray(row) ? row : MODEL.columns.flatMap((column) => featuresOf(column, row[column.name]));
  if (x.length !== MODEL.inputs.length) throw new Error(`the model has ${MODEL.inputs.length} inputs, not ${x.length}`);
  x = MODEL.input_map.map((unit, i) =>
    unit.points ? interpolated(unit.points, unit.values, x[i]) : (x[i] - unit.shift) / unit.scale);
  for (const layer of MODEL.layers) x = LAYERS[layer.kind](layer, x);
  if (MODEL.classes) {
    const most = Math.max(...x);
    const raised = x.map((score) => Math.exp(score - most));
    const total = raised.reduce((sum, each) => sum + each, 0);
    return raised.map((each) => each / total);
  }
  return MODEL.output_map.map((unit, o) =>
    unit.points ? interpolated(unit.values, unit.points, x[o]) : x[o] * unit.scale + unit.shift);
}

if (typeof module !== "undefined") module.exports = { MODEL, predict };
