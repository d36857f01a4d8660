"use strict";
// What moves in the lesson. All text comes in as text nodes; nothing is built from strings of HTML.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  function make(name, attributes = {}, parent = null, text = null) {
    const node = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }
  const shown = v => v === 0 ? "0" : !Number.isFinite(v) ? String(v)
    : Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5 ? String(Number(v.toPrecision(4))) : v.toExponential(2);
  const rmse = differences => Math.sqrt(differences.reduce((s, d) => s + d * d, 0) / Math.max(1, differences.length));
  // Three to six round numbers of an interval.
  function ticks(low, high) {
    const size = 10 ** Math.floor(Math.log10(high - low)), step = size * [0.2, 0.5, 1, 2].find(s => (high - low) / size / s < 6.5);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }
  const range = (low, high, count) => Array.from({length: count}, (_, i) => low + (high - low) * i / (count - 1));

  // An empty drawing whose unit is a pixel, so that text has its size on a phone and on a desk; returns its width.
  function emptied(svg, height) {
    svg.replaceChildren();
    const width = Math.max(300, svg.getBoundingClientRect().width);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    return width;
  }

  // ------------------------------------------------------------------ a plot
  class Plot {
    constructor(parent, title, height = 300) {
      this.height = height; this.left = 54; this.bottom = 34; this.top = 24; this.right = 12;
      this.svg = make("svg:svg", {role: "group", "aria-label": title}, parent);
      this.title = title;
    }
    begin(xs, ys, title = this.title) {
      this.width = emptied(this.svg, this.height);
      const span = values => {
        const finite = values.filter(Number.isFinite);
        let low = Math.min(...finite), high = Math.max(...finite);
        if (!finite.length) [low, high] = [0, 1];
        const room = high > low ? 0.05 * (high - low) : Math.abs(high) * 0.1 || 1;
        return [low - room, high + room];
      };
      [this.x0, this.x1] = span(xs); [this.y0, this.y1] = span(ys);
      const {left, bottom, top, right, width, height} = this;
      make("svg:path", {class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}`}, this.svg);
      for (const x of ticks(this.x0, this.x1)) make("svg:text", {x: this.px(x), y: height - bottom + 16, "text-anchor": "middle"}, this.svg, shown(x));
      for (const y of ticks(this.y0, this.y1)) make("svg:text", {x: left - 5, y: this.py(y) + 4, "text-anchor": "end"}, this.svg, shown(y));
      make("svg:text", {x: width / 2, y: 15, "text-anchor": "middle"}, this.svg, title);
    }
    px(x) { return this.left + (x - this.x0) / (this.x1 - this.x0) * (this.width - this.left - this.right); }
    py(y) { return this.height - this.bottom - (y - this.y0) / (this.y1 - this.y0) * (this.height - this.bottom - this.top); }
    fromPixels(event) {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
      return [this.x0 + (at.x - this.left) / (this.width - this.left - this.right) * (this.x1 - this.x0),
              this.y0 + (this.height - this.bottom - at.y) / (this.height - this.bottom - this.top) * (this.y1 - this.y0)];
    }
    line(xs, ys, style = "curve") {
      let d = "", pen = "M";
      xs.forEach((x, i) => {
        if (!Number.isFinite(x) || !Number.isFinite(ys[i])) { pen = "M"; return; }  // a gap
        d += `${pen}${this.px(x).toFixed(2)} ${this.py(ys[i]).toFixed(2)}`;
        pen = "L";
      });
      if (d) make("svg:path", {class: style, d}, this.svg);
    }
    dots(xs, ys, style = "dot", r = 2.5) {
      xs.forEach((x, i) => Number.isFinite(x) && Number.isFinite(ys[i]) &&
        make("svg:circle", {class: style, cx: this.px(x), cy: this.py(ys[i]), r}, this.svg));
    }
    // Points that are dragged, or moved by the arrow keys; `moved(i, x, y)` is told where to.
    handles(points, name, moved) {
      points.forEach(([x, y], i) => {
        const dot = make("svg:circle", {class: "handle", cx: this.px(x), cy: this.py(y), r: 6, tabindex: 0, role: "slider",
          "aria-label": `${name} ${i + 1}`, "aria-valuenow": y, "data-handle": i}, this.svg);
        dot.addEventListener("pointerdown", event => {
          event.preventDefault();
          const follow = e => moved(i, ...this.fromPixels(e));
          const end = () => { window.removeEventListener("pointermove", follow); window.removeEventListener("pointerup", end); };
          window.addEventListener("pointermove", follow); window.addEventListener("pointerup", end);
        });
        dot.addEventListener("keydown", event => {
          const step = {ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key];
          if (!step) return;
          event.preventDefault();
          moved(i, x + step[0] * (this.x1 - this.x0) / 100, y + step[1] * (this.y1 - this.y0) / 100);
          this.svg.querySelector(`[data-handle="${i}"]`)?.focus();
        });
      });
    }
  }
  function slider(bar, name, count, changed, label = i => String(i + 1), start = count - 1) {
    const box = make("label", {}, bar, `${name} `);
    const input = make("input", {type: "range", min: 0, max: count - 1, value: start, "aria-label": name}, box);
    const output = make("output", {}, box, label(start));
    input.setTo = number => { input.value = Number(number); input.dispatchEvent(new Event("input", {bubbles: true})); };
    input.addEventListener("input", () => { output.textContent = label(Number(input.value)); changed(Number(input.value)); });
    return input;
  }

  // ------------------------------------------------------------------ a network
  const MOST_EDGES = 60;  // of a layer that the diagram draws
  function network(parent, data) {
    let stage = data.stages.length - 1, chosen = [0, 0, 0], model;
    const bar = make("div", {class: "bar"}, parent);
    const steps = slider(bar, data.slider, data.stages.length, i => { stage = i; reset(); }, i => data.stages[i].label);
    const back = make("button", {class: "plain", type: "button"}, bar, "as trained");
    const error = make("span", {class: "number", role: "status"}, bar);
    const two = make("div", {class: "two"}, parent);
    const diagram = make("svg:svg", {role: "group", "aria-label": "the network; each edge shows its function"}, two);
    const edgePlot = new Plot(two, "edge"), resultPlot = new Plot(two, "prediction");
    const own = make("div", {}, two);
    const inputs = ownInputs();
    const {points, domain} = data;
    let moved = {};  // values of control points by layer, output, input and number

    function reset() {
      moved = {};
      model = kan.prepared(data.stages[stage].model);
      draw();
    }
    function size(l, o, i) {
      const layer = model.layers[l], [low, high] = kan.ends(layer, i), values = range(low, high, 21).map(x => kan.edge(layer, o, i, x));
      const mean = values.reduce((a, b) => a + b) / values.length;
      return Math.sqrt(values.reduce((s, v) => s + (v - mean) ** 2, 0) / values.length);
    }
    // [strength, out, in] of the edges of a layer, the strongest first
    const edgesOf = l => model.layers[l].coefficients.flatMap((row, o) => row.map((_, i) => [size(l, o, i), o, i])).sort((a, b) => b[0] - a[0]);
    function draw() { drawDiagram(); drawEdge(); drawResult(); }
    function drawDiagram() {
      const width = emptied(diagram, 300);
      let left = 0;
      const widths = [model.layers[0].knots.length, ...model.layers.map(layer => layer.coefficients.length)];
      const at = (l, n) => [width * (n + 0.5) / widths[l], 270 - 240 * l / model.layers.length];
      model.layers.forEach((layer, l) => {
        const all = edgesOf(l);
        const most = all[0][0] || 1;
        left += Math.max(0, all.length - MOST_EDGES);
        for (const [strength, o, i] of all.slice(0, MOST_EDGES)) {
          const [x0, y0] = at(l, i), [x1, y1] = at(l + 1, o), here = chosen.join() === [l, o, i].join();
          const line = make("svg:path", {class: here ? "edge chosen" : "edge", d: `M${x0} ${y0}L${x1} ${y1}`, tabindex: 0, role: "button",
            "aria-label": `edge from node ${i} to node ${o} of layer ${l}`, "stroke-width": 1 + 4 * strength / most,
            "stroke-opacity": 0.2 + 0.8 * Math.sqrt(strength / most), "data-edge": `${l},${o},${i}`}, diagram);
          const choose = () => {
            if (chosen.join() === [l, o, i].join()) return;
            chosen = [l, o, i];
            diagram.querySelectorAll(".edge").forEach(e => e.setAttribute("class", e === line ? "edge chosen" : "edge"));
            drawEdge();
          };
          for (const event of ["pointerenter", "focus", "click"]) line.addEventListener(event, choose);
        }
      });
      widths.forEach((count, l) => { for (let n = 0; n < count; n++) {
        const [x, y] = at(l, n);
        make("svg:circle", {class: "node", cx: x, cy: y, r: 4}, diagram);
        const name = l === 0 ? data.inputs[n] : l === widths.length - 1 ? data.outputs[n] : null;
        if (name) make("svg:text", {x, y: l ? y - 9 : y + 18, "text-anchor": "middle"}, diagram, name);
      } });
      if (left) make("svg:text", {x: 4, y: 14}, diagram, `the strongest edges; ${left} weaker ones are left out`);
    }
    function seen(l, i) {
      const values = points.x.map(x => kan.activations(model, x)[l][i]).filter(Number.isFinite);
      return values.length ? [Math.min(...values), Math.max(...values)] : [-Infinity, Infinity];
    }
    function drawEdge() {
      const [l, o, i] = chosen, layer = model.layers[l], knots = layer.knots[i], c = layer.coefficients[o][i], degree = layer.degree;
      const [low, high] = kan.ends(layer, i), xs = range(low, high, 201), ys = xs.map(x => kan.edge(layer, o, i, x));
      const weight = layer.splineWeight[o][i];
      const places = c.map((_, k) => { let s = 0; for (let j = 1; j <= degree; j++) s += knots[k + j]; return degree ? s / degree : (knots[k] + knots[k + 1]) / 2; });
      const few = c.length <= 40;
      const from = l === 0 ? data.inputs[i] : `h${l}.${i}`, to = l === model.layers.length - 1 ? data.outputs[o] : `h${l + 1}.${o}`;
      edgePlot.begin([...xs, ...(few ? places : [])], [...ys, ...(few ? c.map(v => weight * v) : [])], `${from} → ${to}`);
      if (few) for (const knot of knots.slice(degree, knots.length - degree)) make("svg:line", {class: "knot", x1: edgePlot.px(knot), x2: edgePlot.px(knot),
        y1: edgePlot.top, y2: edgePlot.height - edgePlot.bottom}, edgePlot.svg);
      const [first, last] = seen(l, i), inside = xs.map(x => x >= first && x <= last);
      edgePlot.line(xs, ys, "unseen");
      edgePlot.line(xs.filter((_, k) => inside[k]), ys.filter((_, k) => inside[k]), "curve");
      if (!few || weight === 0) return;
      edgePlot.line(places, c.map(v => weight * v), "polygon");
      edgePlot.handles(places.map((x, k) => [x, weight * c[k]]), "control point", (k, _, y) => { put([l, o, i, k], y / weight); drawEdge(); drawResult(); });
    }
    function put([l, o, i, k], value) {  // a control point of a spline
      model.layers[l].coefficients[o][i][k] = value;
      moved[[l, o, i, k].join()] = value;
    }
    function set(state) {
      steps.setTo(state.stage);
      for (const [place, value] of Object.entries(state.moved)) put(place.split(",").map(Number), Number(value));
      chosen = state.chosen.map(Number);
      draw();
    }
    function drawResult() {
      const values = points.x.map(x => kan.predict(model, x)), truth = points.y;
      inputs.update();
      const recorded = data.recorded && stage === data.stages.length - 1 && !Object.keys(moved).length;
      error.textContent = recorded ? `RMSE on all test points: ${shown(data.recorded)}`
        : `RMSE on ${values.length} test points: ${shown(rmse(values.flatMap((v, k) => v.map((y, o) => y - truth[k][o]))))}`;
      if (data.inputs.length === 1) {
        const [low, high] = domain[0], xs = range(low, high, 301), ys = xs.map(x => kan.predict(model, [x])[0]);
        resultPlot.begin(xs, [...ys, ...truth.map(y => y[0])], `${data.outputs[0]} over ${data.inputs[0]}; dots: truth`);
        resultPlot.dots(points.x.map(x => x[0]), truth.map(y => y[0]), "data", 2);
        resultPlot.line(xs, ys);
        return;
      }
      const t = truth.map(y => y[0]), p = values.map(v => v[0]);
      resultPlot.begin(t, p, "prediction over truth");
      resultPlot.line([Math.min(...t), Math.max(...t)], [Math.min(...t), Math.max(...t)], "truth");
      resultPlot.dots(t, p);
    }
    function ownInputs() {
      make("h3", {}, own, "Own inputs");
      const fields = data.inputs.map((name, j) => {
        const [low, high] = data.domain[j], line = make("div", {class: "bar"}, own), label = make("label", {}, line, `${name} `);
        const number = make("input", {type: "number", step: "any", value: Number(((low + high) / 2).toPrecision(4)), "aria-label": name}, label);
        number.addEventListener("input", update);
        return number;
      });
      const output = make("p", {class: "number", role: "status"}, own);
      function update() {
        const x = fields.map(field => Number(field.value)), y = kan.predict(model, x);
        const outside = x.some((v, j) => v < data.domain[j][0] || v > data.domain[j][1]);
        output.textContent = data.outputs.map((name, o) => `${name} = ${shown(y[o])}`).join(", ") + (outside ? " (outside the trained range)" : "");
      }
      return {update};
    }
    back.addEventListener("click", reset);
    model = kan.prepared(data.stages[stage].model);
    chosen = [0, ...edgesOf(0)[0].slice(1)];
    reset();
    return {get: () => ({stage, chosen, moved}), set};
  }

  // ------------------------------------------------------------------ a B-spline drawn by its control points
  function curve(parent, data) {
    let control = structuredClone(data.control);
    const bar = make("div", {class: "bar"}, parent), back = make("button", {class: "plain", type: "button"}, bar, "reset");
    const said = make("span", {role: "status"}, bar), plot = new Plot(parent, data.title, 400);
    plot.title = "";  // the page says it above
    const curveAt = u => [0, 1].map(d => kan.deBoor(data.knots, data.degree, control.map(p => p[d]), u));
    const [low, high] = [data.knots[data.degree], data.knots[data.knots.length - 1 - data.degree]];
    const shares = range(low, high, 401), before = shares.map(curveAt);
    const xs = [...data.control, ...before].map(p => p[0]), ys = [...data.control, ...before].map(p => p[1]);
    function draw() {
      plot.begin(xs, ys);
      const now = shares.map(curveAt), changed = shares.map((_, k) => Math.hypot(now[k][0] - before[k][0], now[k][1] - before[k][1]) > 1e-12);
      plot.line(control.map(p => p[0]), control.map(p => p[1]), "polygon");
      plot.line(before.map(p => p[0]), before.map(p => p[1]), "truth");
      plot.line(now.map(p => p[0]), now.map(p => p[1]));
      const moved = now.filter((_, k) => changed[k]);
      plot.dots(moved.map(p => p[0]), moved.map(p => p[1]), "dot", 1.6);
      plot.dots(...[0, 1].map(d => [...new Set(data.knots)].filter(t => t >= low && t <= high).map(t => curveAt(t)[d])), "data", 4);
      said.textContent = `${Math.round(100 * moved.length / now.length)}% of the curve moved`;
      plot.handles(control, "control point", (i, x, y) => { control[i] = [x, y]; draw(); });
    }
    const set = points => { control = points.map(p => p.map(Number)); draw(); };
    back.addEventListener("click", () => set(data.control));
    draw();
    return {get: () => control, set};
  }

  // ------------------------------------------------------------------ parts, and links that hold their state
  const kinds = {network, curve, ...lesson.kinds({make, Plot, slider, range, shown})};
  const states = {};
  for (const section of document.querySelectorAll(".living")) {
    const name = section.dataset.source, source = document.getElementById(name), data = source ? JSON.parse(source.textContent) : {kind: name};
    const state = kinds[data.kind](section, data);
    if (!state) continue;
    states[name] = {...state, section};
    const link = make("a", {class: "link", href: "#"}, section, "link to this state");
    const update = () => { link.href = `#${name}=${encodeURIComponent(JSON.stringify(state.get()))}`; };
    for (const event of ["pointerenter", "focus", "click"]) link.addEventListener(event, update);
  }
  function recall() {
    const [, name, text] = /^#([\w-]+)=(.+)$/.exec(location.hash) || [];
    if (!Object.hasOwn(states, name)) return;
    try { states[name].set(JSON.parse(decodeURIComponent(text))); } catch { return; }  // a link that was cut short
    states[name].section.scrollIntoView();
  }
  window.addEventListener("hashchange", recall);
  recall();
  document.documentElement.dataset.ready = "yes";
})();
