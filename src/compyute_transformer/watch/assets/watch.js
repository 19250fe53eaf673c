// Watch: ask the server for what is new of each run, and draw it.

const EVERY = 2000;  // milliseconds between two questions
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];  // Okabe and Ito's
const DASHES = ["none", "6 3", "2 3"];  // with more runs than colors
const $ = (id) => document.getElementById(id);

const runs = [];  // {name, steps, story, idle, step: [...], evaluation: [...], sample: [...]}
const settings = { log: false, time: false };
const charts = {
  loss: new Chart($("charts"), "Loss (thin: training, thick: validation)"),
  gradient: new Chart($("charts"), "Gradient norm"),
  rate: new Chart($("charts"), "Learning rate"),
  speed: new Chart($("charts"), "Tokens or images per second"),
};
let shownWeights = null;

/** Take in what is new of a run. */
function take(index, news) {
  const known = runs[index];
  const run = news.first > 0 && known ? known : { count: 0, step: [], evaluation: [], sample: [] };
  Object.assign(run, { name: news.name, steps: news.steps, story: news.story, idle: news.idle });
  for (const [kind, ...values] of news.records) run[kind].push(values);
  run.count += news.records.length;
  runs[index] = run;
}

/** When a step was taken, in steps or in seconds of training. */
function along(run) {
  if (!settings.time) return (step) => step;
  const times = run.step.map(([step, , , , , seconds]) => [step, seconds]);
  return (step) => (times.find(([taken]) => taken >= step) || times.at(-1) || [0, 0])[1];
}

function lines(kind, value, more) {
  return runs.map((run, index) => {
    const place = along(run);
    const points = run[kind].map((values) => [place(values[0]), values[value]]);
    return { name: run.name + (more.name || ""), color: COLORS[index % COLORS.length],
      dash: DASHES[Math.floor(index / COLORS.length) % DASHES.length], thin: Boolean(more.thin), points };
  });
}

function draw() {
  const unit = settings.time ? "seconds" : "step";
  const losses = [...lines("step", 1, { name: " training", thin: true }), ...lines("evaluation", 1, { name: " validation" })];
  charts.loss.draw(losses, settings.log, unit);
  charts.gradient.draw(lines("step", 3, {}), settings.log, unit);
  charts.rate.draw(lines("step", 2, {}), false, unit);
  charts.speed.draw(lines("step", 4, {}), false, unit);
  drawTable();
  drawSamples();
}

function cells(kind, texts) {
  const row = document.createElement("tr");
  for (const text of texts) {
    const cell = document.createElement(kind);
    if (kind === "th") cell.scope = "col";
    cell.append(text);
    row.append(cell);
  }
  return row;
}

function drawTable() {
  const head = document.createElement("thead"), body = document.createElement("tbody");
  head.append(cells("th", ["Run", "Step", "Loss", "Validation", "Best", "Gradient norm", "Learning rate", "Log written"]));
  runs.forEach((run, index) => {
    const last = run.step.at(-1) || [], checked = run.evaluation.at(-1) || [];
    const best = run.evaluation.filter(([step]) => step > 0).reduce((a, b) => (a === null || b[1] < a[1] ? b : a), null);
    const name = document.createElement("span"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.borderTopColor = COLORS[index % COLORS.length];
    name.append(swatch, run.name);
    const step = last[0] ?? checked[0];
    const of = run.steps === null ? "" : ` of ${run.steps.toLocaleString("en")}`;
    body.append(cells("td", [
      name, step === undefined ? "" : step.toLocaleString("en") + of, told(last[1]), told(checked[1]),
      best === null ? "" : `${short(best[1])} at ${best[0].toLocaleString("en")}`, told(last[3]), told(last[2]), ago(run.idle),
    ]));
  });
  $("runs").replaceChildren(head, body);
}

const told = (value) => (value === undefined || value === null ? "" : short(value));

function ago(seconds) {
  if (seconds === null) return "not yet";
  if (seconds < 5) return "now";
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
}

/** Fill a list of choices; what was chosen stays chosen, unless that was the newest: then the newest is. */
function choices(select, texts, follow) {
  const before = select.selectedIndex, count = select.options.length;
  if (texts.length === count && texts.every((text, i) => select.options[i].text === text)) return;
  select.replaceChildren(...texts.map((text) => new Option(text)));
  const newest = follow && (before < 0 || before === count - 1);
  select.selectedIndex = newest ? texts.length - 1 : Math.max(0, Math.min(before, texts.length - 1));
}

function drawSamples() {
  choices($("sample-run"), runs.map((run) => run.name), false);
  const run = runs[$("sample-run").selectedIndex];
  choices($("sample-step"), run ? run.sample.map(([step]) => step.toLocaleString("en")) : [], true);
  const sample = run && run.sample[$("sample-step").selectedIndex];
  const text = sample ? sample[1] : "No sample yet.";
  if ($("sample").textContent !== text) $("sample").textContent = text;
}

async function drawWeights() {
  choices($("weights-run"), runs.map((run) => run.name), false);
  const index = $("weights-run").selectedIndex;
  if (index < 0) return;
  const found = await (await fetch(`/weights?run=${index}`)).json();
  const state = found === null ? "none" : `${index} ${found.step}`;
  if (state === shownWeights) return;
  shownWeights = state;
  $("weights-step").textContent = found === null ? "There is no checkpoint yet." : `step ${found.step.toLocaleString("en")}`;
  $("weights").replaceChildren(...(found === null ? [] : found.arrays.map(histogramOf)));
}

function histogramOf(array) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const bins = array.counts.length, tallest = Math.max(...array.counts, 1);
  const about = `mean ${short(array.mean)}, standard deviation ${short(array.std)}, from ${short(-array.most)} to ${short(array.most)}`;
  const svg = element("svg", { viewBox: `0 0 ${bins * 4} 60`, preserveAspectRatio: "none", role: "img", "aria-label": `${array.name}: ${about}` });
  array.counts.forEach((count, i) => {
    const height = (count / tallest) * 58;
    svg.append(element("rect", { x: i * 4, width: 3.4, y: 60 - height, height }));
  });
  const warning = array.not_finite ? ` ⚠ ${array.not_finite.toLocaleString("en")} not finite` : "";
  caption.textContent = `${array.name} (${array.shape.join(" × ")}) ${about}${warning}`;
  figure.append(svg, caption);
  return figure;
}

async function ask() {
  try {
    const have = runs.map((run) => `${run.story}:${run.count}`).join(",");
    const found = await (await fetch(`/runs?have=${have}`)).json();
    found.forEach((news, index) => take(index, news));
    $("state").textContent = `${runs.length} run${runs.length === 1 ? "" : "s"}, read from the log every ${EVERY / 1000} s`;
    draw();
    await drawWeights();
  } catch (error) {
    $("state").textContent = "The command has ended: these are the last numbers. Start it again and reload the page.";
  }
  setTimeout(ask, EVERY);
}

for (const name of ["log", "time"])
  $(name).addEventListener("click", () => {
    settings[name] = !settings[name];
    $(name).setAttribute("aria-pressed", String(settings[name]));
    draw();
  });
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});
if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.dataset.theme = "dark";
$("sample-run").addEventListener("change", drawSamples);
$("sample-step").addEventListener("change", drawSamples);
$("weights-run").addEventListener("change", drawWeights);
ask();
