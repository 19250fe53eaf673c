// Teach: predict first and then reveal, a lecture with large type, and two pages side by side.

/** Questions about the array that is shown; numbers stay hidden until one is answered. */
function quizFor(detail) {
  const { app } = detail, entry = app.page.about.tensors[detail.value.tensor ?? detail.value.gradient];
  const box = el("div", { class: "quiz" }), answer = el("p", { class: "answer", role: "status" });
  if (app.answered) {
    box.append(el("p", { class: "answer" }, app.answered), el("p", {}, "The numbers are shown. Another row asks again."));
    return box;
  }
  const shape = el("input", { type: "text", id: "guess-shape", autocomplete: "off", placeholder: "1 16 64" });
  const sign = el("select", { id: "guess-value" }, ...["", "below zero", "exactly zero", "above zero"].map((t) => el("option", {}, t)));
  const cell = () => {
    const values = detail.value.gradient !== null && entry.stats ? detail.value.gradient : detail.value.tensor;
    const array = tensor(app.page, values), middle = Math.floor(array.data.length * 0.6), index = [];
    for (let axis = array.shape.length - 1, rest = middle; axis >= 0; axis--) { index[axis] = rest % array.shape[axis]; rest = Math.floor(rest / array.shape[axis]); }
    return { name: values === detail.value.tensor ? detail.value.name : `d${detail.value.name}`, index, value: at(array, index) };
  };
  const asked = cell();
  const reveal = (text) => { app.answered = text; app.refresh(); };
  const check = () => {
    const guess = (shape.value.match(/\d+/g) || []).map(Number), right = String(guess) === String(entry.shape);
    const real = asked.value < 0 ? "below zero" : asked.value > 0 ? "above zero" : "exactly zero";
    const parts = [];
    if (shape.value) parts.push(`shape ${right ? "right" : "not right"}: ${shapeText(detail.value.axes, entry.shape)}`);
    if (sign.value) parts.push(`${asked.name}[${asked.index.join(", ")}] ${sign.value === real ? "right" : "not right"}: ${shown(asked.value)}, ${real}`);
    if (!parts.length) { answer.textContent = "Answer one of the two first, or reveal."; return; }
    reveal(parts.join("; "));
  };
  box.append(el("p", {}, el("strong", {}, "Predict first. "), `Which shape does ${detail.value.name} have, and which sign does ${asked.name}[${asked.index.join(", ")}] have? The formula and the code below may help.`),
    el("div", { class: "bar" }, el("label", { for: "guess-shape" }, "shape"), shape, el("label", { for: "guess-value" }, "sign"), sign,
      el("button", { type: "button", id: "check-guess", click: check }, "Check"),
      el("button", { type: "button", id: "reveal", click: () => reveal("Revealed without an answer.") }, "Reveal")), answer);
  return box;
}

/** Which token comes next? */
function tokenQuiz(app, prediction, key, draw) {
  const options = [...prediction.top.slice(0, 5)].sort((a, b) => a[0] - b[0]), answer = el("p", { class: "answer", role: "status" });
  return el("div", { class: "quiz" }, el("p", {}, el("strong", {}, "Predict first. "), "Which token does the model find most probable here?"),
    el("div", { class: "tokens" }, ...options.map(([id]) => tokenOf(wordOf(app, id), { type: "button", click: () => {
      app.revealedPosition = key;
      draw();
      const right = id === prediction.top[0][0];
      say(right ? "right" : "not right");
      answer.textContent = "";
    } }, "button"))), answer);
}

// How far a number of a page may be from the library's, as a part of the largest.
const ROUNDED = { f2: 1e-3, i1: 8e-3, product: 2e-3 };

/** Read another page from a file, and show arrays of both, and their difference. */
function compareView(app) {
  const box = el("div", { class: "panel" }), shownBox = el("div");
  const file = el("input", { type: "file", id: "other", accept: ".html", "aria-label": "another page", change: async () => {
    try {
      const text = await file.files[0].text(), found = text.match(/id="data">([A-Za-z0-9+/=\s]*)</);
      if (!found) throw new Error("no data");
      app.other = await readBlock(found[1]);
      draw();
    } catch { shownBox.replaceChildren(el("p", { class: "warning" }, "This file is no page of compyute explain, or it is damaged.")); }
  } });
  const draw = () => {
    if (!app.other) return;
    const names = Object.keys(app.page.about.names).filter((name) => name in app.other.about.names), rows = [];
    for (const name of names) {
      const [a, b] = [app.page, app.other].map((page) => numberOf(page, name)), [x, y] = [tensor(app.page, a), tensor(app.other, b)];
      if (String(x.shape) !== String(y.shape)) { rows.push([name, Infinity, 0]); continue; }
      let most = 0, size = 0;
      for (let i = 0; i < x.data.length; i++) {
        const difference = Math.abs(x.data[i] - y.data[i]);
        if (difference > most) most = difference;
        if (Number.isFinite(x.data[i])) size = Math.max(size, Math.abs(x.data[i]));
      }
      const ratio = size ? most / size : most, exact = Math.max(ROUNDED[x.code] || 0, ROUNDED[y.code] || 0);
      rows.push([name, ratio <= exact ? 0 : ratio, exact]);
    }
    const differing = rows.filter(([, ratio]) => ratio > 0).length;
    const choice = el("select", { id: "compared", "aria-label": "array to compare", change: () => pair(choice.value) });
    [...rows].sort((p, q) => q[1] - p[1]).forEach(([name, ratio, exact]) => choice.append(el("option", { value: name }, `${name}: ${ratio === 0 ? (exact ? `equal to ${short(exact)} of the largest, as exact as the pages are` : "equal") : ratio === Infinity ? "other shape" : `differs by ${short(ratio)} of the largest`}`)));
    const heats = el("div", { class: "pair" });
    const pair = (name) => {
      const [index, part] = app.page.about.names[name], node = app.page.about.nodes[index];
      const value = node.values.find((v) => v.name === part || `d${v.name}` === part);
      const x = tensor(app.page, numberOf(app.page, name)), y = tensor(app.other, numberOf(app.other, name));
      const maps = [new Heat({ array: x, axes: value.axes, title: `${name} in ${app.page.about.title}` }), new Heat({ array: y, axes: value.axes, title: `${name} in ${app.other.about.title}` })];
      if (String(x.shape) === String(y.shape)) {
        const data = Float64Array.from(x.data, (v, i) => (v === y.data[i] ? 0 : v - y.data[i]));
        maps.push(new Heat({ array: { ...x, data, stats: undefined, code: "f8" }, axes: value.axes, title: "difference, first − second" }));
      }
      const readout = el("p", { class: "value" });
      maps.forEach((heat) => { heat.onCell = (at_) => {
        maps.forEach((other) => { if (other !== heat) other.mirror(at_); });
        readout.textContent = `[${at_.join(", ")}]: ${maps.map((m) => shown(at(m.array, at_))).join("   |   ")}`;
      }; });
      heats.replaceChildren(...maps.map((heat) => heat.element), readout);
    };
    shownBox.replaceChildren(el("p", {}, `${names.length} arrays of the same name in both pages; ${differing} differ.`), el("label", {}, "array ", choice), heats);
    if (names.length) pair(choice.value);
  };
  box.append(el("h2", {}, "Compare with another page"),
    el("p", { class: "note" }, "Choose a second page, of another checkpoint, of another algorithm of attention, or of a wrong gradient. It is read here and goes nowhere. Arrays that differ most come first."), file, shownBox);
  return { element: box, update: () => {} };
}

function numberOf(page, name) {
  const [index, part] = page.about.names[name];
  for (const value of page.about.nodes[index].values) {
    if (value.name === part) return value.tensor;
    if (`d${value.name}` === part) return value.gradient;
  }
  return undefined;
}
