// Chart: lines over steps or seconds, drawn as SVG, with a pointer that reads the values under it.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 480, HEIGHT = 220, LEFT = 58, RIGHT = 12, TOP = 10, BOTTOM = 26;
const MOST_POINTS = 1200;  // of a line: more cannot be told apart

function element(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

/** A number with about four digits that mean something. */
function short(value) {
  if (!Number.isFinite(value)) return String(value);
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

/** Round numbers between two ends; powers of ten, and their doubles and fives, on a logarithmic axis. */
function ticks(low, high, logarithmic) {
  if (logarithmic) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const digit of [1, 2, 5]) {
        const value = digit * 10 ** power;
        if (value >= low && value <= high) found.push(value);
      }
    return found;
  }
  const rough = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** Every so manieth point, so that a line has no more than can be told apart; the last one always. */
function thinned(points) {
  const every = Math.ceil(points.length / MOST_POINTS);
  return every > 1 ? points.filter((_, i) => i % every === 0 || i === points.length - 1) : points;
}

class Chart {
  /** title: what is drawn. unit: along the axis. */
  constructor(parent, title) {
    this.title = title;
    this.box = document.createElement("div");
    this.box.className = "chart";
    const head = document.createElement("h2");
    head.textContent = title;
    this.svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0" });
    this.read = document.createElement("div");
    this.read.className = "read";
    this.read.setAttribute("aria-live", "polite");
    this.box.append(head, this.svg, this.read);
    parent.append(this.box);
    this.at = null;
    this.svg.addEventListener("pointermove", (event) => {
      const frame = this.svg.getBoundingClientRect();
      this.point(((event.clientX - frame.left) / frame.width) * WIDTH);
    });
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || !this.scale) return;
      event.preventDefault();
      this.point(Math.min(WIDTH - RIGHT, Math.max(LEFT, (this.at ?? WIDTH - RIGHT) + move * (WIDTH - LEFT - RIGHT) / 50)));
    });
  }

  /** lines: [{name, color, dash, thin, points: [[x, y], ...]}]. */
  draw(lines, logarithmic, unit) {
    this.lines = lines
      .map((line) => ({ ...line, points: line.points.filter(([, y]) => Number.isFinite(y) && (!logarithmic || y > 0)) }))
      .filter((line) => line.points.length);
    this.unit = unit;
    this.svg.replaceChildren();
    if (!this.lines.length) {
      this.scale = null;
      this.svg.append(element("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing yet"));
      this.svg.setAttribute("aria-label", `${this.title}: nothing yet`);
      return;
    }
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const line of this.lines)
      for (const [x, y] of line.points) {
        x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y);
      }
    if (x0 === x1) x1 = x0 + 1;
    if (y0 === y1) [y0, y1] = logarithmic ? [y0 / 1.1, y0 * 1.1] : [y0 - 0.5, y0 + 0.5];
    const placed = logarithmic ? Math.log : (y) => y;
    const across = (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
    const down = (y) => TOP + ((placed(y1) - placed(y)) / (placed(y1) - placed(y0))) * (HEIGHT - TOP - BOTTOM);
    this.scale = { back: (pixel) => x0 + ((pixel - LEFT) / (WIDTH - LEFT - RIGHT)) * (x1 - x0), across };
    for (const value of ticks(y0, y1, logarithmic)) {
      this.svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: down(value), y2: down(value) }));
      this.svg.append(element("text", { x: LEFT - 6, y: down(value) + 4, "text-anchor": "end" }, short(value)));
    }
    for (const value of ticks(x0, x1, false))
      this.svg.append(element("text", { x: across(value), y: HEIGHT - 8, "text-anchor": "middle" }, short(value)));
    for (const line of this.lines) {
      const points = thinned(line.points).map(([x, y]) => `${across(x).toFixed(1)},${down(y).toFixed(1)}`).join(" ");
      const drawn = { points, stroke: line.color, class: line.thin ? "thin" : "", "stroke-dasharray": line.dash || "none" };
      this.svg.append(element("polyline", drawn));
      if (line.points.length === 1) {
        const [[x, y]] = line.points;
        this.svg.append(element("circle", { cx: across(x), cy: down(y), r: 3, fill: line.color }));
      }
    }
    const last = this.lines.map((line) => `${line.name} ${short(line.points.at(-1)[1])}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}, last values: ${last}. Left and right read earlier ones.`);
    this.point(this.at);
  }

  /** Read the values at a place across the chart, or none. */
  point(pixel) {
    this.at = pixel;
    this.svg.querySelector(".pointer")?.remove();
    if (pixel === null || !this.scale) {
      this.read.textContent = "";
      return;
    }
    const wanted = this.scale.back(pixel);
    const nearest = this.lines.map((line) => line.points.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a)));
    const x = nearest.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a))[0];
    const place = this.scale.across(x);
    this.svg.append(element("line", { class: "pointer", x1: place, x2: place, y1: TOP, y2: HEIGHT - BOTTOM }));
    this.read.textContent = `${this.unit} ${short(x)}: ` + this.lines.map((line, i) => `${line.name} ${short(nearest[i][1])}`).join(" · ");
  }
}
