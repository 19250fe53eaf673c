// Main: reads the data, makes the views, and keeps the address in step: #blocks.2.attention.dv, #view:attention.

const HELP = [
  ["Map", "A row is a module or an op. On the left its forward, read down; on the right the gradient of its output, read up. ↑ ↓ change the row, → goes to the gradient or unfolds, ← back or folds."],
  ["Numbers", "Blue is below zero, orange above, white zero. A cell with one stroke is exactly zero, a crossed cell is −∞: hidden by a mask. Arrow keys move in a map of colors, + − and 0 zoom, Enter keeps a cell."],
  ["Letters", "B batch, T positions of queries, S of keys, C width, H heads, K key/value heads, D width of a head, F hidden width, V vocabulary. d and a name is a gradient."],
  ["Links", "The address names what is shown, such as #blocks.0.attention.dv: copy it for slides. @0,1,2,3 behind it names a cell."],
  ["Lecture", "Large type. ← → go to the previous and the next row from anywhere. The page prints: choose PDF as the printer."],
];

class App {
  constructor(page) {
    this.page = page;
    this.frame = page.about.current;
    this.predict = false;
    this.answered = "";
    this.view = "map";
    this.map = new ModelMap(page, (index, lane) => {
      const value = mainValue(page.about.nodes[index]);
      this.go(index, lane === "backward" && value.gradient !== null ? `d${value.name}` : value.name, undefined, lane);
    });
    this.detail = new Detail(this);
    const split = el("div", { class: "split" }, this.map.element, this.detail.element);
    this.views = { map: { title: "Model", made: { element: split, update: () => {} } }, attention: { title: "Attention", make: attentionView },
      predictions: { title: "Predictions", make: predictionsView }, depth: { title: "Depth", make: depthView }, training: { title: "Training", make: trainingView },
      checks: { title: "Checks", make: checksView }, compare: { title: "Compare", make: compareView } };
    this._tabs();
    this._controls();
    window.addEventListener("hashchange", () => this.follow());
    this.follow();
    this._buildTheRest(Object.values(this.views));
  }

  // --- the address ---

  follow() {
    const hash = decodeURIComponent(location.hash.slice(1));
    if (hash === this.written) return;
    if (hash.startsWith("view:") && hash.slice(5) in this.views) { this.show(hash.slice(5), false); return; }
    const [name, cell] = hash.replace(/^block(\d+)/, "blocks.$1").split("@"), { names, nodes } = this.page.about;
    const index = cell ? cell.split(",").map(Number) : undefined;
    if (name in names) this.go(names[name][0], names[name][1], index);
    else {
      const node = nodes.findIndex((n) => n.id === name || (n.path === name && name !== ""));
      const first = node >= 0 ? node : Math.max(0, nodes.findIndex((n) => n.op === "attention"));
      const weights = node < 0 && nodes[first].values.some((v) => v.name === "weights");
      this.go(first, weights ? "weights" : mainValue(nodes[first]).name, undefined, undefined, node >= 0);
    }
  }

  linkTo(index, name, cell) {
    const node = this.page.about.nodes[index];
    this.written = `${node.id}.${name}${cell ? `@${cell.join(",")}` : ""}`;
    history.replaceState(null, "", `#${encodeURIComponent(this.written).replaceAll("%2C", ",").replaceAll("%40", "@")}`);
  }

  /** Show an array of a row: "q", or "dq". */
  go(index, name, cell, lane, link = true) {
    if (index !== this.index || name !== this.name) this.answered = "";
    this.index = index;
    this.name = name;
    this.show("map", false);
    const value = this.page.about.nodes[index].values.find((v) => `d${v.name}` === name && !this.page.about.nodes[index].values.some((w) => w.name === name));
    this.map.select(index, lane || (value ? "backward" : "forward"));
    this.detail.show(index, name, cell);
    if (link) this.linkTo(index, name, cell);
    say(`${this.page.about.nodes[index].id}, ${name}`);
  }

  refresh() {
    this.detail.show(this.index, this.name);
    for (const view of Object.values(this.views)) view.made?.update();
  }

  // --- words ---

  words(name, count) {
    const found = this.page.about.axes[name];
    return found && found.length >= count ? found : null;
  }

  targetAxis() {
    const names = Object.keys(this.page.about.axes);
    return names.length > 1 ? names[1] : names[0];
  }

  /** The tokens beside an axis, if it is one of positions. */
  labels(node, axis, size, isColumn) {
    if (axis !== "T" && axis !== "S" && axis !== "M") return null;
    const names = Object.keys(this.page.about.axes), source = names[0], target = names[1] ?? names[0];
    const ofSource = node.path.startsWith("encoder") || (node.path.includes("cross") && axis === "S");
    const found = this.page.about.axes[ofSource ? source : target];
    return found && found.length === size ? found : null;
  }

  // --- the frame around ---

  _tabs() {
    const tabs = document.getElementById("tabs"), main = document.getElementById("main");
    for (const [name, view] of Object.entries(this.views)) {
      view.tab = el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}`, click: () => this.show(name) }, view.title);
      view.box = el("div", { role: "tabpanel", id: `view-${name}`, "aria-labelledby": `tab-${name}`, hidden: true });
      tabs.append(view.tab);
      main.append(view.box);
    }
    tabs.addEventListener("keydown", (event) => {
      const names = Object.keys(this.views), place = names.indexOf(this.view);
      const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: names.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      const name = names[(next + names.length) % names.length];
      this.show(name);
      this.views[name].tab.focus();
    });
  }

  _build(view) {
    view.made ??= view.make(this);
    if (!view.box.firstChild) view.box.append(view.made.element);
  }

  /** Build the views one by one after the first is shown, with time between for whoever reads it, so that each opens at once. */
  _buildTheRest([view, ...others]) {
    if (view) setTimeout(() => { this._build(view); this._buildTheRest(others); }, 100);
  }

  show(name, link = true) {
    this.view = name;
    for (const [other, view] of Object.entries(this.views)) {
      const chosen = other === name;
      if (chosen) this._build(view);
      view.box.hidden = !chosen;
      view.tab.setAttribute("aria-selected", String(chosen));
      view.tab.tabIndex = chosen ? 0 : -1;
    }
    if (link) {
      this.written = `view:${name}`;
      history.replaceState(null, "", `#view:${name}`);
    }
  }

  setFrame(index) {
    this.frame = index;
    const { frames, current } = this.page.about;
    document.getElementById("slider").value = index;
    document.getElementById("step").textContent = `${frames[index].label}${index === current ? "" : " (the Model view stays at " + frames[current].label + ")"}`;
    for (const view of Object.values(this.views)) view.made?.update();
  }

  _controls() {
    const { about } = this.page, slider = document.getElementById("slider"), by = (id) => document.getElementById(id);
    by("facts").textContent = `${about.model.kind}, ${about.model.parameters.toLocaleString("en")} parameters · loss ${shown(number(about.loss))} nats · ${Object.entries(about.sizes).filter(([k]) => k.length === 1).map(([k, v]) => `${k} ${v}`).join(" · ")}`;
    slider.max = about.frames.length - 1;
    by("steps").hidden = about.frames.length < 2;
    slider.addEventListener("input", () => this.setFrame(Number(slider.value)));
    this.setFrame(this.frame);
    const toggle = (id, act) => by(id).addEventListener("click", () => {
      const on = by(id).getAttribute("aria-pressed") !== "true";
      by(id).setAttribute("aria-pressed", String(on));
      act(on);
    });
    toggle("predict", (on) => { this.predict = on; this.answered = ""; this.revealedPosition = ""; this.refresh(); });
    toggle("lecture", (on) => { document.documentElement.dataset.lecture = String(on); this.lecture = on; });
    by("theme").addEventListener("click", () => { document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark"; this.refresh(); });
    by("help-button").addEventListener("click", () => {
      by("help").hidden = !by("help").hidden;
      by("help-button").setAttribute("aria-expanded", String(!by("help").hidden));
    });
    by("help").append(...HELP.map(([name, text]) => el("p", {}, el("strong", {}, `${name}. `), text)));
    document.addEventListener("keydown", (event) => {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
      if (!this.lecture || typing || this.view !== "map") return;
      const by_ = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[event.key];
      if (by_) { this.map.step(by_); event.preventDefault(); }
    });
  }
}

async function start() {
  const loading = document.getElementById("loading");
  try {
    document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const page = await readBlock(document.getElementById("data").textContent);
    loading.hidden = true;
    window.explained = new App(page);
  } catch (error) {
    loading.textContent = typeof DecompressionStream === "undefined"
      ? "This browser cannot unpack the numbers: it lacks DecompressionStream. Use a browser of 2023 or later."
      : `This page cannot be read: ${error.message}. Write it again with compyute explain.`;
    throw error;
  }
}

start();
