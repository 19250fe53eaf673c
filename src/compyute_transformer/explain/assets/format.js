// Format: numbers, tokens and elements. Text of a user reaches the page as text nodes only.

/** Make an element. Attributes with a function are listeners; children are elements or texts. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A number in seven digits, as many as a float32 has; more is kept for checks. */
function shown(value, digits = 7) {
  if (value === undefined) return "not in this page";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Object.is(value, 0) || Object.is(value, -0)) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1).replace(/\.?0+e/, "e");
  return text.replace("-", "−");
}

const short = (value) => shown(value, 3);
const percent = (value) => `${(100 * value).toFixed(value < 0.01 ? 2 : 1)}\u00a0%`;

const NAMES = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };

/** A token as visible text: spaces and line ends have signs, and no character controls the direction of the line. */
function visible(word) {
  if (word === "") return "∅";
  return word.replace(/[\s\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/gu, (c) =>
    NAMES[c] || `⟨${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function tokenOf(word, attributes = {}, tag = "span") {
  return el(tag, { class: "token", dir: "auto", title: visible(word), ...attributes }, visible(word));
}

const DIGITS = "₀₁₂₃₄₅₆₇₈₉";
const subscript = (n) => String(n).replace(/\d/g, (d) => DIGITS[d]);

/** "B T C = 1 × 16 × 128". */
function shapeText(axes, shape) {
  if (!shape.length) return "one number";
  return `${axes.join(" ")} = ${shape.join(" × ")}`;
}

const say = (text) => { document.getElementById("live").textContent = text; };
