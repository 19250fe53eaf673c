// Heat: an array as a map of colors on a canvas, with zoom, a cursor for the keyboard, and numbers where they fit.

const STOPS = {
  light: { below: [11, 79, 158], zero: [255, 255, 255], above: [199, 86, 0], text: "#1b1f24" },
  dark: { below: [121, 184, 255], zero: [24, 28, 34], above: [255, 160, 76], text: "#e6edf3" },
};
const GUTTER = 92; // pixels beside a map for labels, at most
const NUMBERS_FROM = 44; // pixels of a cell in which a number can be read

const theme = () => (document.documentElement.dataset.theme === "dark" ? "dark" : "light");

/** The color of a value in [−1, 1]. */
function colorOf(ratio) {
  const { below, zero, above } = STOPS[theme()], end = ratio < 0 ? below : above;
  const size = Math.min(1, Math.abs(ratio));
  return zero.map((from, i) => Math.round(from + (end[i] - from) * size));
}

/** Black or white, whichever can be read better on a color. */
function inkOn([r, g, b]) {
  const part = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b) > 0.179 ? "#000000" : "#ffffff";
}

/** Paint an element by a value in [−1, 1]. */
function paint(element, ratio) {
  const color = colorOf(ratio);
  element.style.backgroundColor = `rgb(${color.join(" ")})`;
  element.style.color = inkOn(color);
  return element;
}

class Heat {
  /** options: {array, axes, title, rows, columns, hidden, onCell}: rows and columns are labels; hidden: no numbers yet. */
  constructor(options) {
    Object.assign(this, { contrast: 1, cell: 0, cursor: null, leading: [] }, options);
    const shape = this.array.shape;
    this.numRows = shape.length > 1 ? shape[shape.length - 2] : 1;
    this.numColumns = shape.length ? shape[shape.length - 1] : 1;
    this.leading = shape.slice(0, -2).map(() => 0);
    this.largest = this._largest();
    const longest = Math.max(0, ...[...(this.rows || []), ...(this.columns || [])].map((word) => visible(word).length));
    this.gutter = Math.min(GUTTER, 12 + 7.4 * longest);
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.base = el("canvas"); // the map without the cursor, so that a moving cursor costs one copy
    this.spacer = el("div", { class: "spacer" });
    this.box = el("div", {
      class: "heat", tabindex: "0", role: "application", "aria-roledescription": "heat map",
      "aria-label": `${this.title}, ${shapeText(this.axes, this.array.full)}. Arrow keys move, plus and minus zoom, Enter keeps a cell.`,
      scroll: () => this.draw(), keydown: (event) => this._key(event),
      mousemove: (event) => this._over(event, false), click: (event) => this._over(event, true),
      mouseleave: () => this.onLeave && this.onLeave(),
    }, this.spacer, this.canvas);
    this.element = el("div", { class: "heat-box" }, el("h3", {}, this.title), this._bar(), this.box, this._stats());
    this._observer = new ResizeObserver(() => this.resize());
    this._observer.observe(this.box);
  }

  _largest() {
    const stats = this.array.stats || {};
    const bound = Math.max(Math.abs(number(stats.min ?? 0)), Math.abs(number(stats.max ?? 0)));
    if (bound) return bound;
    let found = 0;
    for (const value of this.array.data) if (Number.isFinite(value)) found = Math.max(found, Math.abs(value));
    return found || 1;
  }

  _bar() {
    const bar = el("div", { class: "bar" });
    this.array.shape.slice(0, -2).forEach((size, axis) => {
      if (size < 2) return;
      const choice = el("select", { "aria-label": `${this.axes[axis]} of ${this.title}`, change: () => {
        this.leading[axis] = Number(choice.value);
        this.draw();
        this._tell(false);
      } });
      for (let i = 0; i < size; i++) choice.append(el("option", { value: i }, `${this.axes[axis]} ${i}`));
      this[`choice${axis}`] = choice;
      bar.append(choice);
    });
    bar.append(
      el("button", { type: "button", "aria-label": `zoom out ${this.title}`, click: () => this.zoom(1 / 1.6) }, "−"),
      el("button", { type: "button", "aria-label": `zoom in ${this.title}`, click: () => this.zoom(1.6) }, "+"),
      el("button", { type: "button", "aria-label": `all of ${this.title}`, click: () => this.fit() }, "all"),
      el("button", { type: "button", "aria-label": `numbers of ${this.title}`, click: () => this.zoom(NUMBERS_FROM / this.cell + 0.02) }, "numbers"));
    const contrast = el("input", { type: "range", min: 0, max: 4, step: 0.1, value: 0, "aria-label": `contrast of ${this.title}`,
      input: () => { this.contrast = 2 ** Number(contrast.value); this.draw(); } });
    bar.append(el("label", {}, "contrast ", contrast));
    return bar;
  }

  _stats() {
    const { stats = {}, code, full, shape } = this.array;
    if (this.hidden) return el("p", { class: "stats" }, "hidden until you have answered");
    const parts = [`${PRECISION[code]}`];
    if ("norm" in stats) parts.push(`from ${short(number(stats.min))} to ${short(number(stats.max))}, norm ${short(number(stats.norm))}`);
    if (stats.zero) parts.push(`${stats.zero.toLocaleString("en")} exact zeros`);
    if (stats.nan) parts.push(`${stats.nan} NaN`);
    if (stats.infinite) parts.push(`${stats.infinite} infinite`);
    if (String(full) !== String(shape)) parts.push(`cut: this page holds the first ${shape.join(" × ")} of ${full.join(" × ")}`);
    return el("p", { class: "stats" }, parts.join(" · "));
  }

  get gutters() {
    const left = this.rows && this.cell >= 11 ? this.gutter : 0, top = this.columns && this.cell >= 11 ? this.gutter : 0;
    return [left, top];
  }

  resize() {
    const width = this.box.clientWidth, height = this.box.clientHeight;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = this.base.width = Math.round(width * ratio);
    this.canvas.height = this.base.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    if (!this.cell) this.fit();
    else this._place();
  }

  fit() {
    this.box.style.height = "";
    const width = this.box.clientWidth - 2, height = this.box.clientHeight - 18;
    const whole = (gutter) => Math.min((width - (this.rows ? gutter : 0)) / this.numColumns, (height - (this.columns ? gutter : 0)) / this.numRows);
    const labeled = whole(this.gutter) >= 8.5 && (this.rows || this.columns); // a little too large, so that its labels can be read
    const cell = labeled ? Math.max(11, whole(this.gutter)) : Math.min(whole(0), 10.9);
    this.cell = Math.max(1.5, Math.min(64, cell));
    this._place();
  }

  zoom(factor) {
    const before = this.cell, [left, top] = this.gutters;
    const middle = this.cursor || [(this.box.scrollTop + this.box.clientHeight / 2 - top) / before, (this.box.scrollLeft + this.box.clientWidth / 2 - left) / before];
    this.cell = Math.max(1.5, Math.min(90, this.cell * factor));
    this._place();
    this.box.scrollTo(middle[1] * this.cell - this.box.clientWidth / 2, middle[0] * this.cell - this.box.clientHeight / 2);
    this.draw();
  }

  _place() {
    const [left, top] = this.gutters;
    this.spacer.style.width = `${left + this.numColumns * this.cell}px`;
    this.spacer.style.height = `${top + this.numRows * this.cell}px`;
    this.box.style.height = `min(var(--tall), ${Math.ceil(top + this.numRows * this.cell + 18)}px)`; // no higher than it need be
    this.draw();
  }

  indexOf(row, column) {
    const rank = this.array.shape.length;
    return [...this.leading, ...(rank > 1 ? [row] : []), ...(rank ? [column] : [])];
  }

  draw() {
    const context = this.base.getContext("2d"), ratio = window.devicePixelRatio || 1;
    const width = this.canvas.width / ratio, height = this.canvas.height / ratio, { cell } = this;
    if (!cell || !width) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const [left, top] = this.gutters, x0 = left - this.box.scrollLeft, y0 = top - this.box.scrollTop;
    const first = [Math.max(0, Math.floor((top - y0) / cell)), Math.max(0, Math.floor((left - x0) / cell))];
    const last = [Math.min(this.numRows, Math.ceil((height - y0) / cell)), Math.min(this.numColumns, Math.ceil((width - x0) / cell))];
    const gap = cell > 8 ? 1 : 0, strokes = { zero: new Path2D(), hidden: new Path2D() };
    for (let r = first[0]; r < last[0]; r++)
      for (let c = first[1]; c < last[1]; c++) {
        const value = this.hidden ? 0 : at(this.array, this.indexOf(r, c)), x = x0 + c * cell, y = y0 + r * cell;
        this._cell(context, value, x, y, cell - gap, strokes);
      }
    context.strokeStyle = STOPS[theme()].text;
    context.lineWidth = 1;
    context.globalAlpha = 0.25;
    context.stroke(strokes.zero);
    context.globalAlpha = 0.6;
    context.stroke(strokes.hidden);
    context.globalAlpha = 1;
    this._labels(context, x0, y0, left, top, first, last, width, height);
    this.drawCursor();
  }

  drawCursor() {
    const context = this.canvas.getContext("2d"), ratio = window.devicePixelRatio || 1, { cell } = this, [left, top] = this.gutters;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.base.width || !this.base.height) return;
    context.drawImage(this.base, 0, 0);
    if (!this.cursor) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.lineWidth = 2.5;
    context.strokeStyle = STOPS[theme()].text;
    context.strokeRect(left - this.box.scrollLeft + this.cursor[1] * cell - 1, top - this.box.scrollTop + this.cursor[0] * cell - 1, cell + 1, cell + 1);
  }

  _cell(context, value, x, y, size, strokes) {
    const ink = STOPS[theme()].text, ratio = Number.isFinite(value) ? (value / this.largest) * this.contrast : 0;
    const color = Number.isNaN(value) ? [196, 0, 143] : colorOf(ratio);
    context.fillStyle = `rgb(${color.join(" ")})`;
    context.fillRect(x, y, size, size);
    if (this.hidden) { if (size > 12) { context.fillStyle = ink; context.font = "12px system-ui"; context.textAlign = "center"; context.fillText("?", x + size / 2, y + size / 2 + 4); } return; }
    if ((value === 0 || value === -Infinity) && size >= 4) { // an exact zero, or a score that the mask hides
      const path = value === 0 ? strokes.zero : strokes.hidden;
      path.moveTo(x, y + size);
      path.lineTo(x + size, y);
      if (value !== 0) {
        path.moveTo(x, y);
        path.lineTo(x + size, y + size);
      }
    }
    if (size >= NUMBERS_FROM - 1) {
      context.fillStyle = inkOn(color);
      context.font = `${Math.min(13, size / 4.2)}px system-ui`;
      context.textAlign = "center";
      context.fillText(short(value), x + size / 2, y + size / 2 + 4, size - 3);
    }
  }

  _labels(context, x0, y0, left, top, first, last, width, height) {
    const ink = STOPS[theme()].text, back = getComputedStyle(document.documentElement).getPropertyValue("--panel");
    context.font = "12px ui-monospace, monospace";
    if (left) {
      context.fillStyle = back;
      context.fillRect(0, 0, left - 2, height);
      context.fillStyle = ink;
      context.textAlign = "right";
      for (let r = first[0]; r < last[0]; r++) {
        const y = y0 + (r + 0.5) * this.cell + 4;
        if (y > top) context.fillText(visible(this.rows[r] ?? "").slice(0, 12), left - 6, y, left - 8);
      }
    }
    if (top) {
      context.fillStyle = back;
      context.fillRect(left, 0, width, top - 2);
      context.fillRect(0, 0, left, top - 2);
      context.fillStyle = ink;
      context.textAlign = "left";
      for (let c = first[1]; c < last[1]; c++) {
        const x = x0 + (c + 0.5) * this.cell + 4;
        if (x < left) continue;
        context.save();
        context.translate(x, top - 5);
        context.rotate(-Math.PI / 2);
        context.fillText(visible(this.columns[c] ?? "").slice(0, 12), 0, 0, top - 8);
        context.restore();
      }
    }
  }

  /** Put the cursor on a cell by its index in the array, and tell of it. */
  select(index, keep = true) {
    this.mirror(index);
    this._tell(keep);
  }

  /** Put the cursor on a cell. */
  mirror(index) {
    const rank = this.array.shape.length, before = String(this.leading);
    this.leading = index.slice(0, Math.max(0, rank - 2));
    this.leading.forEach((place, axis) => { if (this[`choice${axis}`]) this[`choice${axis}`].value = place; });
    this.cursor = [rank > 1 ? index[rank - 2] : 0, rank ? index[rank - 1] : 0];
    if (String(this.leading) === before) this.drawCursor();
    else this.draw();
  }

  _tell(keep) {
    if (this.cursor && this.onCell) this.onCell(this.indexOf(...this.cursor), keep);
  }

  _over(event, keep) {
    const area = this.canvas.getBoundingClientRect(), [left, top] = this.gutters;
    const column = Math.floor((event.clientX - area.left + this.box.scrollLeft - left) / this.cell);
    const row = Math.floor((event.clientY - area.top + this.box.scrollTop - top) / this.cell);
    if (row < 0 || column < 0 || row >= this.numRows || column >= this.numColumns) return;
    if (keep || !this.kept || !this.kept()) {
      this.cursor = [row, column];
      this.drawCursor();
      this._tell(keep);
    }
  }

  _key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "+" || event.key === "=") this.zoom(1.6);
    else if (event.key === "-") this.zoom(1 / 1.6);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter" || event.key === " ") this._tell(true);
    else if (event.key in moves) {
      const [dr, dc] = moves[event.key], [row, column] = this.cursor || [-dr, -dc];
      this.cursor = [Math.max(0, Math.min(this.numRows - 1, row + dr)), Math.max(0, Math.min(this.numColumns - 1, column + dc))];
      this._reveal();
      this.draw();
      this._tell(true);
      say(`${this.axes.slice(-2).join(" ")} ${this.cursor.join(", ")}: ${this.hidden ? "hidden" : shown(at(this.array, this.indexOf(...this.cursor)), digitsOf(this.array))}`);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  _reveal() {
    const [row, column] = this.cursor, { cell, box } = this, [left, top] = this.gutters;
    if (column * cell < box.scrollLeft) box.scrollLeft = column * cell;
    if ((column + 1) * cell + left > box.scrollLeft + box.clientWidth) box.scrollLeft = (column + 1) * cell + left - box.clientWidth;
    if (row * cell < box.scrollTop) box.scrollTop = row * cell;
    if ((row + 1) * cell + top > box.scrollTop + box.clientHeight) box.scrollTop = (row + 1) * cell + top - box.clientHeight;
  }
}
