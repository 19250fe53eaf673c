// Views: attention, predictions, depth, training and checks. Each follows the slider over checkpoints.

const wordOf = (app, id) => app.page.about.words[String(id)] ?? String(id);

function attentionView(app) {
  const { frames } = app.page.about, box = el("div", { class: "panel" });
  const state = { layer: 0, head: 0, query: null };
  const draw = () => {
    const frame = frames[app.frame];
    if (!frame.attention.length) { box.replaceChildren(el("p", {}, "This model has no attention.")); return; }
    state.layer = Math.min(state.layer, frame.attention.length - 1);
    const entry = frame.attention[state.layer], weights = tensor(app.page, entry.tensor);
    const [, heads, queries, keys] = weights.shape;
    state.head = Math.min(state.head, heads - 1);
    state.query = Math.min(state.query ?? queries - 1, queries - 1);
    const rows = app.words(entry.queries, queries), columns = app.words(entry.keys, keys);
    const layer = el("select", { id: "layer", "aria-label": "attention of which layer", change: () => { state.layer = Number(layer.value); draw(); } });
    frame.attention.forEach((a, i) => layer.append(el("option", { value: i, selected: i === state.layer }, a.path)));
    const thumbs = el("div", { class: "heads", role: "group", "aria-label": "heads" });
    for (let h = 0; h < heads; h++) thumbs.append(el("button", { type: "button", "aria-pressed": h === state.head ? "true" : "false",
      click: () => { state.head = h; draw(); } }, thumbnail(weights, h, queries, keys), `head ${h}`));
    const one = { ...weights, shape: [queries, keys], full: [queries, keys], data: headOf(weights, state.head, queries, keys) };
    one.stats = undefined;
    const heat = new Heat({ array: one, axes: ["T", "S"], title: `${entry.path}, head ${state.head}: weight of each key (columns) for each query (rows)`, rows, columns,
      onCell: (index, keep) => { state.query = index[0]; text(); if (keep) say(`query ${visible(rows?.[index[0]] ?? "")}, key ${visible(columns?.[index[1]] ?? "")}: ${percent(at(one, index))}`); } });
    const line = el("div");
    const text = () => line.replaceChildren(...shadedText(one, state, rows, columns, (query) => { state.query = query; text(); }));
    text();
    box.replaceChildren(el("h2", {}, "Attention of all heads"),
      el("p", { class: "note" }, "A row is a query, a column a key; a row sums to one. Crossed cells are exactly zero: a causal mask hides what comes later, a padding mask what is no text. A choice of the query colors the text by the weights that it gives."),
      el("div", { class: "bar" }, el("label", {}, "layer ", layer)), thumbs, el("div", { class: "tall" }, heat.element), el("h3", {}, "The text, as one query sees it"), line);
  };
  draw();
  return { element: box, update: draw };
}

function headOf(weights, head, queries, keys) {
  const start = head * queries * keys; // of the first row of the batch
  return weights.data.subarray(start, start + queries * keys);
}

function thumbnail(weights, head, queries, keys) {
  const canvas = el("canvas", { width: keys, height: queries, "aria-hidden": "true" }), context = canvas.getContext("2d");
  canvas.style.width = canvas.style.height = "96px";
  canvas.style.imageRendering = "pixelated";
  const image = context.createImageData(keys, queries), data = headOf(weights, head, queries, keys);
  for (let i = 0; i < data.length; i++) image.data.set([...colorOf(data[i]), 255], 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

function shadedText(weights, state, rows, columns, choose) {
  const [queries, keys] = weights.shape;
  const queriesLine = el("div", { class: "tokens", role: "group", "aria-label": "query" });
  for (let t = 0; t < queries; t++) queriesLine.append(tokenOf(rows?.[t] ?? String(t), { type: "button", "aria-pressed": t === state.query ? "true" : "false", click: () => choose(t) }, "button"));
  const keysLine = el("div", { class: "tokens" });
  for (let s = 0; s < keys; s++) {
    const weight = at(weights, [state.query, s]), word = columns?.[s] ?? String(s);
    keysLine.append(paint(tokenOf(word, { title: `${visible(word)}: ${weight === 0 ? "exactly 0" : percent(weight)}` }), weight));
  }
  return [el("p", { class: "note" }, "query:"), queriesLine, el("p", { class: "note" }, "keys, by the weight they get:"), keysLine];
}

function predictionsView(app) {
  const box = el("div", { class: "panel" }), state = { position: null };
  const draw = () => {
    const frame = app.page.about.frames[app.frame], { predictions, lens } = frame;
    state.position = Math.min(state.position ?? predictions.length - 1, predictions.length - 1);
    const words = app.words(app.targetAxis(), predictions.length);
    const strip = el("div", { class: "tokens", role: "group", "aria-label": "positions" });
    predictions.forEach((prediction, t) => {
      const token = tokenOf(words?.[t] ?? `${t}`, { type: "button", "aria-pressed": t === state.position ? "true" : "false", click: () => { state.position = t; draw(); } }, "button");
      strip.append(token);
    });
    const chosen = predictions[state.position], body = el("tbody");
    const reveal = !app.predict || app.revealedPosition === `${app.frame}/${state.position}`;
    for (const [id, p] of reveal ? chosen.top : []) body.append(el("tr", {}, el("td", {}, tokenOf(wordOf(app, id))), el("td", { class: "number" }, percent(p)), el("td", {}, meter(p, 16))));
    box.replaceChildren(el("h2", {}, app.page.about.nodes[0].values.some((v) => v.name === "images") ? "The class of the image" : "The next token at each position"),
      el("p", { class: "note" }, `Mean loss of the scored positions at ${frame.label}: ${shown(number(frame.loss))} nats. Choose a position; the list is the distribution of the token that follows it.`),
      strip, reveal ? "" : tokenQuiz(app, chosen, `${app.frame}/${state.position}`, draw),
      el("table", {}, el("thead", {}, el("tr", {}, ...["token", "probability", "as a bar"].map((t) => el("th", { scope: "col" }, t)))), body),
      reveal ? targetLine(app, chosen.target) : "",
      ...lensTable(app, lens, words, state, draw));
  };
  draw();
  return { element: box, update: draw };
}

function targetLine(app, target) {
  if (!target) return el("p", {}, "No target is scored here.");
  const [id, p, place] = target;
  return el("p", {}, "The target, ", tokenOf(wordOf(app, id)), `, has ${percent(p)}: place ${place}, loss ${short(-Math.log(p))} nats.`);
}

function meter(ratio, rems, above = false) {
  const bar = el("span", { class: `meter${above ? " above" : ""}`, "aria-hidden": "true" });
  bar.style.width = `${Math.max(0, Math.min(1, ratio)) * rems}rem`;
  return bar;
}

function lensTable(app, lens, words, state, draw) {
  if (!lens) return [el("p", { class: "note" }, "Logit lens: the last layers of this model are not a norm and a head, so it is left out.")];
  const head = el("tr", {}, el("th", { scope: "col" }, "depth")), body = el("tbody"), hide = app.predict;
  lens.depths[0].cells.forEach((_, t) => head.append(el("th", { scope: "col" }, tokenOf(words?.[t] ?? String(t)))));
  for (const depth of [...lens.depths].reverse()) {
    const row = el("tr", {}, el("th", { scope: "row" }, depth.path));
    depth.cells.forEach((cell, t) => {
      const [id, p] = cell.top[0];
      const place = el("td", { title: hide ? "" : cell.top.map(([i, q]) => `${visible(wordOf(app, i))} ${percent(q)}`).join(", ") },
        hide ? "?" : tokenOf(wordOf(app, id)), hide ? "" : el("br"), hide ? "" : percent(p));
      row.append(paint(place, hide ? 0 : p));
    });
    body.append(row);
  }
  return [el("h3", {}, "Logit lens: what each depth would predict"),
    el("p", { class: "note" }, "The stream after each block, read by the model's own last norm and head; the last block is at the top."),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "logit lens" }, el("table", {}, el("thead", {}, head), body))];
}

function depthView(app) {
  const box = el("div", { class: "panel" }), state = { weight: 0, position: 0 };
  const draw = () => {
    const frame = app.page.about.frames[app.frame], { norms, pushes } = frame;
    const most = (key) => Math.max(...norms.map((stage) => number(stage[key] ?? 0)), 1e-300);
    const [out, grad, par] = ["output", "gradient", "parameters"].map(most), body = el("tbody");
    for (const stage of norms) {
      const cell = (key, top, above) => el("td", {}, stage[key] === null ? "–" : short(number(stage[key])), " ", stage[key] === null ? null : meter(number(stage[key]) / top, 7, above));
      body.append(el("tr", {}, el("td", {}, el("a", { href: `#${stage.path}` }, stage.path)), cell("output", out, false), cell("gradient", grad, true), cell("parameters", par, true)));
    }
    box.replaceChildren(el("h2", {}, "Gradient by depth"),
      el("p", { class: "note" }, `At ${frame.label}. Norms of what each stage returns, of the gradient that reaches it, and of the gradients of its parameters. Bars are relative to the largest of their column.`),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "norms by depth" }, el("table", {}, el("thead", {}, el("tr", {}, ...["stage", "output", "gradient of the output", "gradients of its parameters"].map((t) => el("th", { scope: "col" }, t)))), body)),
      ...pushesTable(app, pushes, state, draw));
  };
  draw();
  return { element: box, update: draw };
}

function pushesTable(app, pushes, state, draw) {
  if (!pushes.length) return [];
  state.weight = Math.min(state.weight, pushes.length - 1);
  const chosen = pushes[state.weight], words = app.words(app.targetAxis(), chosen.positions.length), body = el("tbody");
  const weight = el("select", { id: "pushed-weight", "aria-label": "gradient of which weight", change: () => { state.weight = Number(weight.value); draw(); } });
  pushes.forEach((push, i) => weight.append(el("option", { value: i, selected: i === state.weight }, push.parameter)));
  const list = (pairs) => el("td", {}, ...pairs.flatMap(([id, score]) => [tokenOf(wordOf(app, id), { title: shown(score) }), " "]));
  chosen.positions.forEach((position, t) => body.append(el("tr", {}, el("th", { scope: "row" }, tokenOf(words?.[t] ?? String(t))), list(position.towards), list(position.away))));
  return [el("h3", {}, "Backward lens: the tokens that a weight's gradient pushes"),
    el("p", { class: "note" }, "A step down the gradient of one weight W changes the layer's output at position t along −dW xₜ. Multiplied by the scale of the last norm and by the head, it says which tokens become more probable at that position, and which less (the first row of the batch)."),
    el("div", { class: "bar" }, el("label", {}, "weight ", weight)),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "backward lens" }, el("table", {}, el("thead", {}, el("tr", {}, ...["position", "towards", "away from"].map((t) => el("th", { scope: "col" }, t)))), body))];
}

function trainingView(app) {
  const box = el("div", { class: "panel" });
  const draw = () => {
    const { curve, frames } = app.page.about, body = el("tbody");
    frames.forEach((frame, i) => {
      const best = frame.predictions.filter((p) => p.target && p.target[2] === 1).length, scored = frame.predictions.filter((p) => p.target).length;
      body.append(el("tr", {}, el("td", {}, el("button", { type: "button", "aria-pressed": i === app.frame ? "true" : "false", click: () => app.setFrame(i) }, frame.label)), el("td", { class: "number" }, shown(number(frame.loss))), el("td", { class: "number" }, `${best} of ${scored}`)));
    });
    box.replaceChildren(el("h2", {}, "Training"), curve.training?.length ? curvePicture(curve, frames, app.frame) : el("p", { class: "note" }, "This page is of a model, not of a run: there is no loss curve."),
      el("h3", {}, "This text at each checkpoint"),
      el("table", {}, el("thead", {}, el("tr", {}, ...["checkpoint", "loss of this text", "targets in first place"].map((t) => el("th", { scope: "col" }, t)))), body));
  };
  draw();
  return { element: box, update: draw };
}

function curvePicture(curve, frames, current) {
  const width = 720, height = 300, left = 52, bottom = 36, all = [...curve.training, ...(curve.validation || [])];
  const lastStep = Math.max(...all.map((p) => p[0]), 1), losses = all.map((p) => p[1]).filter(Number.isFinite);
  const low = Math.min(...losses), high = Math.max(...losses), span = high - low || 1;
  const x = (step) => left + (width - left - 12) * step / lastStep, y = (loss) => 12 + (height - bottom - 12) * (high - loss) / span;
  const path = (points) => points.map(([s, l], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(l).toFixed(1)}`).join("");
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Loss curve: training from ${short(curve.training[0][1])} to ${short(curve.training.at(-1)[1])} in ${lastStep} steps` });
  for (let i = 0; i <= 4; i++) {
    const loss = low + span * i / 4;
    picture.append(svg("line", { x1: left, x2: width, y1: y(loss), y2: y(loss), stroke: "var(--line)" }), svg("text", { x: 4, y: y(loss) + 4 }, loss.toFixed(2)));
    picture.append(svg("text", { x: x(lastStep * i / 4) - 8, y: height - 12 }, String(Math.round(lastStep * i / 4))));
  }
  picture.append(svg("path", { d: path(curve.training), fill: "none", stroke: "var(--below)", "stroke-width": 2 }));
  for (const [s, l] of curve.validation || []) picture.append(svg("circle", { cx: x(s), cy: y(l), r: 4, fill: "var(--above)" }));
  frames.forEach((frame, i) => {
    if (frame.step === null) return;
    picture.append(svg("line", { x1: x(frame.step), x2: x(frame.step), y1: 8, y2: height - bottom, stroke: "var(--accent)", "stroke-width": i === current ? 3 : 1, "stroke-dasharray": i === current ? "" : "4 4" }));
  });
  return el("div", {}, picture, el("p", { class: "note" }, "Line: training loss. Points: validation loss. Upright lines: the checkpoints of this page; the chosen one is solid."));
}

function checksView(app) {
  const { nodes, parameter_checks: parameters } = app.page.about, box = el("div", { class: "panel" });
  const flags = nodes.flatMap((node) => node.flags.map((flag) => [node, flag]));
  const rows = Object.entries(parameters).map(([name, check]) => [`${name}[${check.place.join(", ")}]`, check]);
  const ops = nodes.flatMap((node) => node.checks.map((check) => [`${node.id}.${check.name}[${check.place.join(", ")}]`, check]));
  const worst = (list) => Math.max(0, ...list.map(([, check]) => check.error ?? Infinity));
  box.append(el("h2", {}, "What was checked"),
    el("h3", {}, `Warnings about numbers: ${flags.length || "none"}`), ...flags.map(([node, flag]) => el("p", { class: "warning" }, el("a", { href: `#${node.id}` }, node.id), `: ${flag}`)),
    el("h3", {}, `Gradients of parameters against differences of the whole loss: ${rows.length}`),
    rows.length ? el("p", { class: "note" }, `Largest relative error ${short(worst(rows))}. Computed in float64 when the page was written; “in this run” is the gradient of the page, in the model's own dtype.`) : el("p", { class: "note" }, "Left out: the model is too large to run it a hundred times in float64."),
    rows.length ? checksTable(rows, "checks of parameters") : "",
    el("h3", {}, `Gradients of ops against differences of the op: ${ops.length}`), el("p", { class: "note" }, `Largest relative error ${short(worst(ops))}.`), checksTable(ops, "checks of ops"));
  return { element: box, update: () => {} };
}
