// Detail: one node, its values beside their gradients, the sum behind a cell, formulas, code and checks.

class Detail {
  constructor(app) {
    this.app = app;
    this.element = el("section", { class: "detail", id: "detail", tabindex: "-1", "aria-label": "Numbers of the chosen row" });
    this.cellBox = el("div", { class: "cell", id: "cell", "aria-label": "Chosen cell" });
  }

  /** Show a node; name: of the array to show, "q" or "dq". */
  show(index, name, cell) {
    const { page } = this.app, node = page.about.nodes[index];
    this.node = node;
    this.index = index;
    const value = node.values.find((v) => v.name === name) || node.values.find((v) => `d${v.name}` === name) || mainValue(node);
    this.value = value;
    this.keptCell = null;
    const gradientName = `d${value.name}`, wantsGradient = name === gradientName;
    this.heats = {};
    const pair = el("div", { class: "pair" });
    if (value.tensor !== null) pair.append(this._heat(value.name, value.tensor));
    if (value.gradient !== null) pair.append(this._heat(gradientName, value.gradient));
    this.element.replaceChildren(
      el("h2", {}, `${node.id} — ${node.kind}`),
      ...node.flags.map((flag) => el("p", { class: "warning" }, flag)),
      this._chips(name),
      ...(this.app.predict ? [quizFor(this)] : []),
      el("p", { class: "note" }, this._about(value)),
      pair, this.cellBox, ...this._formulas(), this._checks(), this._code());
    this._empty();
    if (cell) (this.heats[wantsGradient ? gradientName : value.name] || Object.values(this.heats)[0]).select(cell);
  }

  _chips(current) {
    const chips = el("div", { class: "chips", role: "group", "aria-label": "Arrays of this row" });
    for (const value of this.node.values) {
      const pressed = value === this.value;
      chips.append(el("button", { type: "button", "aria-pressed": String(pressed), click: () => this.app.go(this.index, value.name) },
        value.name, el("small", {}, ` ${value.role}${value.gradient === null ? "" : ` · d${value.name}`}`)));
    }
    return chips;
  }

  _about(value) {
    const { tensors } = this.app.page.about;
    const entry = tensors[value.tensor ?? value.gradient], parts = [`${value.name}: ${value.role}`];
    parts.push(this.app.predict && !this.app.answered ? "shape hidden" : shapeText(value.axes, entry.shape));
    if (value.parameter) parts.push(`parameter ${value.parameter}`);
    if (value.gradient === null) parts.push("no gradient reaches it, or none is needed");
    if (this.node.ran) parts.push(this.node.ran === "kernel" ? "a compiled kernel ran; the code below computes the same" : "the code below ran");
    const options = Object.entries(this.node.options || {}).map(([k, v]) => `${k} = ${v}`);
    return [...parts, ...options].join(" · ");
  }

  _heat(name, number_) {
    const { app } = this, array = tensor(app.page, number_), axes = this.value.axes, last = axes.length - 1;
    const heat = new Heat({
      array, axes, title: name, hidden: app.predict && !app.answered,
      rows: last >= 1 ? app.labels(this.node, axes[last - 1], array.full[last - 1], false) : null,
      columns: last >= 0 ? app.labels(this.node, axes[last], array.full[last], true) : null,
      kept: () => this.keptCell !== null && this.keptName !== undefined,
      onCell: (index, keep) => this._onCell(name, number_, index, keep),
      onLeave: () => {},
    });
    this.heats[name] = heat;
    return heat.element;
  }

  _empty() {
    this.cellBox.replaceChildren(el("p", { class: "note" },
      "Point at a cell, or move to one with the arrow keys, to see the sum that made it. Click or Enter keeps a cell; a second time lets it go."));
  }

  _onCell(name, number_, index, keep) {
    if (keep) {
      const same = this.keptName === name && String(this.keptCell) === String(index);
      this.keptCell = same ? null : index;
      this.keptName = same ? undefined : name;
      if (!same) this.app.linkTo(this.index, name, index);
    }
    const other = name === this.value.name ? `d${name}` : name.slice(1), heat = this.heats[other];
    if (heat) heat.mirror(index);
    this._cell(name, number_, index);
  }

  _cell(name, number_, index) {
    const { app, node } = this, array = tensor(app.page, number_), value = at(array, index), axes = this.value.axes;
    const words = axes.map((axis, i) => {
      const label = app.labels(node, axis, array.full[i], i === axes.length - 1);
      return `${axis} ${index[i]}${label ? ` “${visible(label[index[i]] ?? "")}”` : ""}`;
    });
    if (app.predict && !app.answered) {
      this.cellBox.replaceChildren(el("p", {}, `${name}[${index.join(", ")}] is hidden. Answer above first.`));
      app.quizCell = { name, number_, index };
      return;
    }
    const parts = [el("p", { class: "value" }, `${name}[${index.join(", ")}] = ${shown(value, digitsOf(array))}`), el("p", { class: "note" }, words.join(" · "))];
    const beside = name === this.value.name ? this.value.gradient : this.value.tensor;
    if (beside !== null) {
      const otherName = name === this.value.name ? `d${name}` : this.value.name;
      parts.push(el("p", {}, `${otherName} at the same place: ${shown(at(tensor(app.page, beside), index), digitsOf(tensor(app.page, beside)))}`));
    }
    const hidden = maskText(node, name, value);
    if (hidden) parts.push(el("p", { class: "warning" }, hidden));
    const sum = (node.sums || []).find((s) => s.result === number_ && s.names[0] === name) || (node.sums || []).find((s) => s.result === number_);
    if (sum) parts.push(this._sum(sum, index, value));
    const point = (node.points || []).find((p) => p.result === number_);
    if (point) parts.push(this._point(point, index, value));
    if (!sum && !point) parts.push(this._elsewhere(number_));
    this.cellBox.replaceChildren(...parts);
  }

  /** Where the same array is made, if it is by another row. */
  _elsewhere(number_) {
    const { nodes } = this.app.page.about;
    const found = nodes.findIndex((n) => [...(n.sums || []), ...(n.points || [])].some((s) => s.result === number_));
    if (found < 0) return el("p", { class: "note" }, "");
    const source = nodes[found], made = [...(source.sums || []), ...(source.points || [])].find((s) => s.result === number_);
    const name = made.names ? made.names[0] : made.name;
    return el("p", {}, "Made in ", el("a", { href: `#${source.id}.${name}` }, `${source.id}.${name}`));
  }

  _sum(sum, index, value) {
    const found = sumOf(this.app.page, sum, index);
    const [result, left, right, bias] = sum.names;
    const scale = sum.scale === 1 ? "" : ` · ${short(sum.scale)} (1/√D)`;
    const head = `${result} = Σ ${left}${right ? ` · ${right}` : ""}${scale}${sum.bias === null || !bias ? "" : ` + ${bias}`}`;
    if (!found) return el("p", {}, `${head}: this page holds only a part of a factor, so the sum is not shown.`);
    const ordered = [...found.terms].sort((a, b) => Math.abs(b[3]) - Math.abs(a[3]));
    const list = el("p", { class: "terms" });
    const write = (terms) => {
      list.replaceChildren();
      terms.forEach(([a, b, place, product_], i) => {
        const text = right ? `${short(a)}·${short(b)}` : short(a);
        list.append(i ? " + " : "", el("span", { class: product_ < 0 ? "below" : "above", title: `${found.free.map((letter, k) => `${letter} ${place[k]}`).join(", ")}` }, `${right ? `(${text})` : text}`));
      });
    };
    const few = 12, more = ordered.length > few;
    write(more ? ordered.slice(0, few) : found.terms);
    const all = el("button", { type: "button", click: () => { write(found.terms); all.remove(); } }, `all ${found.terms.length} terms in order`);
    const difference = Number.isFinite(value) ? `, this page holds ${shown(value)}: difference ${short(Math.abs(found.total - value))}` : "";
    return el("div", {}, el("p", {}, head), more ? el("p", { class: "note" }, `the ${few} largest of ${ordered.length} terms: `) : null, list, more ? all : null,
      el("p", {}, `sum${sum.scale === 1 ? "" : `, scaled by ${short(sum.scale)}`}${found.bias ? `, plus bias ${short(found.bias)}` : ""}: ${shown(found.total)}${difference}`));
  }

  _point(point, index, value) {
    const operands = operandsOf(this.app.page, this.node, point, index);
    return el("div", {}, el("p", {}, `${point.name} = ${point.formula}`),
      el("p", { class: "terms" }, operands.map(([name, number_]) => `${name} = ${shown(number_)}`).join("   ")),
      el("p", {}, `= ${shown(value)}`));
  }

  _formulas() {
    if (!this.node.formula) return [];
    return [el("h3", {}, "Formula"), el("pre", { class: "formula", tabindex: "0" }, this.node.formula)];
  }

  _checks() {
    const { about } = this.app.page;
    const rows = this.node.checks.map((check) => [`${check.name}[${check.place.join(", ")}], of this op`, check]);
    for (const value of this.node.values)
      if (value.parameter && about.parameter_checks[value.parameter] && !value.name.endsWith("_of_all_uses")) {
        const check = about.parameter_checks[value.parameter];
        rows.push([`${value.parameter}[${check.place.join(", ")}], of the whole loss`, check]);
      }
    return el("div", {}, rows.length ? el("h3", {}, "Checked by finite differences, in float64") : null,
      rows.length ? checksTable(rows) : null);
  }

  _code() {
    const { code } = this.node, { sources } = this.app.page.about, box = el("div", {});
    const show = (title, number_) => {
      if (number_ === null || number_ === undefined) return null;
      const source = sources[number_], helpers = source.helpers.map((n) => sources[n]);
      return el("div", {}, el("h3", {}, `${title}: ${source.file}`), codeOf(source),
        helpers.length ? el("details", {}, el("summary", {}, `what it calls in the same file (${helpers.length})`), ...helpers.map(codeOf)) : null);
    };
    const pairs = [["forward", code.forward, "backward", code.backward], ["forward of the module", code.module_forward, "backward of the module", code.module_backward]];
    for (const [a, forward, b, backward] of pairs) {
      const parts = [show(a, forward), show(b, backward)].filter(Boolean);
      if (parts.length) box.append(el("div", { class: "codes" }, ...parts));
    }
    return box;
  }
}

function codeOf(source) {
  const block = el("pre", { class: "code", tabindex: "0", "aria-label": `code of ${source.name}` });
  for (const [line, text] of source.lines) block.append(el("span", { class: "number" }, String(line)), `${text}\n`);
  return block;
}

function checksTable(rows, label = "checks") {
  const body = el("tbody");
  for (const [what, check] of rows) {
    const error = check.error === null ? "not finite" : short(check.error);
    body.append(el("tr", {}, el("td", {}, what), el("td", { class: "number" }, shown(number(check.measured), 10)),
      el("td", { class: "number" }, shown(number(check.exact), 10)), el("td", { class: "number" }, shown(number(check.recorded))), el("td", { class: "number" }, error)));
  }
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, el("table", {},
    el("thead", {}, el("tr", {}, ...["entry", "difference", "backward in float64", "in this run", "relative error"].map((t) => el("th", { scope: "col" }, t)))), body));
}

/** Why a value is exactly zero, where a mask is the reason. */
function maskText(node, name, value) {
  const attention = node.op === "attention" || node.op === "softmax";
  if (!attention) return "";
  if (value === -Infinity) return "The mask hides this key from this query: its score is −∞, so its weight is exactly 0.";
  if (value === 0 && ["weights", "y", "dscores", "dx", "dweights", "dy"].includes(name) && (node.op === "softmax" || name !== "y" && name !== "dy"))
    return "Exactly zero: the mask hides this key from this query, and no gradient passes.";
  return "";
}
