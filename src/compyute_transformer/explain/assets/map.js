// Map: the model in two lanes. The forward runs down the left lane, the backward up the right; a row is a module or an op.

class ModelMap {
  constructor(page, onSelect) {
    this.page = page;
    this.onSelect = onSelect;
    this.nodes = page.about.nodes;
    this.open = new Set();
    this.nodes.forEach((node, index) => {
      if (node.depth === 0 || node.path.split(".")[1] === "0") this.open.add(index);
    });
    this.element = el("nav", { class: "map", "aria-label": "Map of the model: forward on the left, backward on the right", keydown: (event) => this._key(event) });
    this.selected = null;
    this.draw();
  }

  children(index) { return this.nodes.some((node) => node.parent === index); }

  shows(node) { return node.parent === null || (this.open.has(node.parent) && this.shows(this.nodes[node.parent])); }

  draw() {
    const lanes = el("div", { class: "lanes" },
      el("div", { class: "head" }, "forward ↓"), el("div", { class: "head" }, "↑ gradient"));
    this.nodes.forEach((node, index) => { if (this.shows(node)) this._row(lanes, node, index); });
    const focused = this.element.contains(document.activeElement);
    this.element.replaceChildren(lanes);
    if (focused && this.selected) this.focus();
  }

  _row(lanes, node, index) {
    const y = mainValue(node), kind = node.kind.split(" · ").pop(), name = node.id.split(".").slice(-2).join(".") || node.id;
    const current = this.selected && this.selected[0] === index ? this.selected[1] : "";
    const fold = el("button", {
      type: "button", class: `fold${this.children(index) ? "" : " none"}`, tabindex: "-1",
      "aria-label": `${this.open.has(index) ? "fold" : "unfold"} ${node.id}`, click: () => this.toggle(index),
    }, this.open.has(index) ? "▾" : "▸");
    const flagged = node.flags.length ? " flagged" : "";
    const forward = el("button", {
      type: "button", class: `lane forward${flagged}`, "data-node": index, "data-lane": "forward",
      "aria-current": current === "forward" ? "true" : null, "aria-label": `${name} ${kind}, forward of ${node.id}`,
      tabindex: this._stop(index, "forward"), click: () => this.onSelect(index, "forward"),
    }, el("span", { class: "what" }, name), " ", el("small", {}, kind));
    forward.style.marginLeft = `${node.depth * 0.7}rem`;
    const gradient = y && y.gradient !== null ? this.page.about.tensors[y.gradient].stats : null;
    const backward = el("button", {
      type: "button", class: "lane backward", "data-node": index, "data-lane": "backward",
      "aria-current": current === "backward" ? "true" : null,
      "aria-label": `${gradient ? `‖d${y.name}‖ ${short(number(gradient.norm ?? 0))}` : "–"}, gradient of ${node.id}`,
      tabindex: this._stop(index, "backward"), click: () => this.onSelect(index, "backward"),
    }, gradient ? `‖d${y.name}‖ ${short(number(gradient.norm ?? 0))}` : "–");
    lanes.append(el("div", { class: "forward-cell" }, fold, forward), backward);
  }

  /** The map is one stop of the Tab key: the chosen row, or the first. */
  _stop(index, lane) {
    const [row, side] = this.selected || [0, "forward"];
    return row === index && side === lane ? "0" : "-1";
  }

  toggle(index) {
    if (this.open.has(index)) this.open.delete(index);
    else this.open.add(index);
    this.draw();
  }

  /** Mark a row, and unfold what it lies in. */
  select(index, lane) {
    for (let above = this.nodes[index].parent; above !== null; above = this.nodes[above].parent) this.open.add(above);
    this.selected = [index, lane];
    this.draw();
    const row = this._button(index, lane);
    if (row) { // scroll the map alone, not the page
      const box = this.element.getBoundingClientRect(), place = row.getBoundingClientRect();
      if (place.top < box.top + 40 || place.bottom > box.bottom) this.element.scrollTop += place.top - box.top - box.height / 2;
    }
  }

  _button(index, lane) { return this.element.querySelector(`[data-node="${index}"][data-lane="${lane}"]`); }

  focus() { this._button(...this.selected)?.focus({ preventScroll: true }); }

  /** Go to the next or the previous row that is shown. */
  step(by) {
    const rows = this.nodes.map((_, index) => index).filter((index) => this.shows(this.nodes[index]));
    const [index, lane] = this.selected || [rows[0], "forward"];
    const next = rows[rows.indexOf(index) + by];
    if (next !== undefined) this.onSelect(next, lane);
  }

  _key(event) {
    const button = document.activeElement, lane = button.dataset.lane, index = Number(button.dataset.node);
    if (!lane) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      this.step(event.key === "ArrowDown" ? 1 : -1);
      this.focus();
    } else if (event.key === "ArrowRight" && lane === "forward") {
      if (!this.open.has(index) && this.children(index)) this.toggle(index);
      else { this.onSelect(index, "backward"); this.focus(); }
    } else if (event.key === "ArrowLeft") {
      if (lane === "backward") { this.onSelect(index, "forward"); this.focus(); }
      else if (this.open.has(index) && this.children(index)) this.toggle(index);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** The value that a row stands for: the output. */
const mainValue = (node) => node.values.find((value) => value.role === "output") || node.values[0];
