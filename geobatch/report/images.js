// Filters, the list of images, and the one that was chosen.

const kept = { rows: [], classes: [] };
const PER_PAGE = 48;
const STATUS = ["not in this run", "placed", "rejected"];

function optionsOf(select, pairs) {
  fill(select, ...pairs.map(([value, label]) => el("option", { value }, label)));
}

const number = (id) => ($(id).value === "" ? null : Number($(id).value));

// Rows that pass every filter; how many there are of each class is counted before the legend's own.
function filter() {
  const run = currentRun(), colouring = colourings()[state.colour], classes = colouring.of();
  const [low, high, sureLow, sureHigh] = ["error-low", "error-high", "sure-low", "sure-high"].map(number);
  const status = Number($("status").value), reason = Number($("reason").value), country = Number($("country").value);
  const name = $("name").value.trim().toLowerCase(), sure = run.sure[state.radius];
  const rest = colouring.labels.length, counts = new Array(rest + 1).fill(0), rows = [];
  for (let row = 0; row < images.size; row++) {
    if (status ? run.status[row] !== status : run.status[row] === 0 && state.colour !== "change") continue;
    if (reason && run.reason[row] !== reason) continue;
    if (country && images.country[row] !== country) continue;
    if (low !== null && !(run.error[row] >= low)) continue;
    if (high !== null && !(run.error[row] <= high)) continue;
    if (sureLow !== null && !(sure && sure[row] !== 255 && sure[row] >= sureLow * 2.54 - 0.5)) continue;
    if (sureHigh !== null && !(sure && sure[row] !== 255 && sure[row] <= sureHigh * 2.54 + 0.5)) continue;
    if (name && !images.ids[row].toLowerCase().includes(name)) continue;
    const at = classes(row);
    counts[at < 0 ? rest : at]++;
    if (state.off.has(at)) continue;
    rows.push(row);
  }
  kept.rows = rows;
  kept.classes = counts;
  state.page = 0;
  const total = images.size;
  $("count").textContent = rows.length === total ? `${count(total)} images` : `${count(rows.length)} of ${count(total)}`;
  $("clear").disabled = rows.length === total;
  drawLegend(colouring);
  drawList();
  drawCurve();
  drawDoubt();
  draw();
}

// Classes of the legend: those of the colouring and, where there are such images, -1 of the rest.
const classesShown = (colouring) => [...colouring.labels.keys(), ...(kept.classes.at(-1) || state.off.has(-1) ? [-1] : [])];

function drawLegend(colouring) {
  const made = classesShown(colouring).map((at) =>
    el("button", { type: "button", "aria-pressed": String(!state.off.has(at)), title: "Show or leave out", onclick: () => toggle(at) },
      el("i", { style: { background: `var(--${at < 0 ? "none" : colouring.names[at]})` } }), el("span", {}, at < 0 ? colouring.rest : colouring.labels[at]), el("span", {}, count(kept.classes.at(at)))));
  const old = [...$("legend").children].indexOf(document.activeElement);
  fill($("legend"), ...made);
  if (old >= 0) made[old]?.focus();
}

function toggle(at) {
  const all = classesShown(colourings()[state.colour]).length;
  if (state.off.has(at)) state.off.delete(at);
  else state.off.add(at);
  if (state.off.size === all) state.off.clear();
  filter();
}

const ORDERS = {
  worst: ["farthest first", (row) => -(currentRun().error[row] >= 0 ? currentRun().error[row] : -1)],
  nearest: ["nearest first", (row) => (currentRun().error[row] >= 0 ? currentRun().error[row] : Infinity)],
  sure: ["most confident first", (row) => { const p = currentRun().sure[state.radius]?.[row] ?? 255; return p === 255 ? 1 : -p; }],
  doubtful: ["least confident first", (row) => currentRun().sure[state.radius]?.[row] ?? 255],
  change: ["largest gain first", (row) => { const [a, b] = versus(); const d = b.error[row] - a.error[row]; return Number.isFinite(d) ? d : Infinity; }],
  loss: ["largest loss first", (row) => { const [a, b] = versus(); const d = a.error[row] - b.error[row]; return Number.isFinite(d) ? d : Infinity; }],
  pictured: ["with a picture first", (row) => (pictures[row] ? 0 : 1)],
  row: ["as in the table", (row) => row],
};

function ordered() {
  const key = ORDERS[state.order][1], keys = new Float64Array(images.size);
  for (const row of kept.rows) keys[row] = key(row);
  return Int32Array.from(kept.rows).sort((a, b) => keys[a] - keys[b] || a - b);
}

function drawList(keep = false) {
  if (!keep) kept.order = ordered();
  const pages = Math.max(1, Math.ceil(kept.order.length / PER_PAGE));
  state.page = Math.min(state.page, pages - 1);
  const rows = Array.from(kept.order.subarray(state.page * PER_PAGE, (state.page + 1) * PER_PAGE));
  fill($("list"), ...(rows.length ? rows.map(card) : [el("li", { class: "empty" }, el("b", {}, "No image passes these filters"), "Widen one, or choose Show all.")]));
  $("where").textContent = `${count(state.page + 1)} of ${count(pages)}`;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page >= pages - 1;
}

function picture(row) {
  const source = pictures[row];
  if (!source) return null;
  return el("img", { src: `data:image/jpeg;base64,${source}`, alt: `Image ${nameOf(row)}`, loading: "lazy", decoding: "async" });
}

function colourOf(row) {
  const colouring = colourings()[state.colour], at = colouring.of()(row);
  return at < 0 ? "var(--none)" : `var(--${colouring.names[at]})`;
}

function summary(row) {
  const run = currentRun();
  if (run.status[row] !== 1) return run.status[row] ? images.reasons[run.reason[row]] : STATUS[0];
  if (run.error[row] >= 0) return `${km(run.error[row])} off`;
  const sure = run.sure[state.radius]?.[row] ?? 255;
  return sure === 255 ? place(...degreesOf(run.place, row)) : `${Math.round(sure / 2.54)} % within ${count(images.radii[state.radius])} km`;
}

function card(row) {
  const button = el("button", { type: "button", "data-row": row, "aria-current": String(row === state.chosen), onclick: () => choose(row, true), onkeydown: walk },
    Object.keys(pictures).length ? picture(row) || el("span", { class: "none", "aria-hidden": "true" }, "·") : null,
    el("span", {}, el("b", { title: images.ids[row] }, nameOf(row)), el("small", {}, el("i", { class: "dot", style: { background: colourOf(row) } }), summary(row)),
      images.country[row] ? el("small", {}, images.countries[images.country[row]]) : null));
  return el("li", {}, button);
}

// Arrow keys walk through the list.
function walk(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...$("list").querySelectorAll("button")];
  buttons[buttons.indexOf(event.currentTarget) + step]?.focus();
}

function choose(row, move = false) {
  state.chosen = row;
  for (const button of $("list").querySelectorAll("button")) button.setAttribute("aria-current", String(Number(button.dataset.row) === row));
  drawDetail();
  if (row >= 0 && move) show(row);
  else draw();
}

// The next image of the list, for the keyboard.
function step(by) {
  if (!kept.order.length) return;
  const at = kept.order.indexOf(state.chosen), next = at < 0 ? 0 : Math.min(Math.max(at + by, 0), kept.order.length - 1);
  state.page = Math.floor(next / PER_PAGE);
  drawList(true);
  choose(kept.order[next], true);
}

function sharedLevel(cell, truth) {
  const most = Math.min(levelOf(cell), levelOf(truth));
  if (cell >> 61n !== truth >> 61n) return -1;
  let level = 0;
  while (level < most && parentOf(cell, level + 1) === parentOf(truth, level + 1)) level++;
  return level;
}

function drawDetail() {
  const row = state.chosen, target = $("detail");
  if (row < 0) {
    const how = images.size ? "Click a dot on the map or an image of the list, or press N on the map." : "The table has no image to choose.";
    fill(target, el("p", { class: "empty" }, el("b", {}, "No image chosen"), how));
    return;
  }
  const why = images.samples[images.why[row]];
  const uri = uriOf(row);
  const member = images.ids[row].includes("#") || images.uris[row] !== undefined;
  fill(target, 
    picture(row) || el("div", { class: "nopicture" }, Object.keys(pictures).length ? `No picture in this file: it carries those of ${count(Object.keys(pictures).length)} images.` : "This file carries no pictures."),
    el("h2", {}, nameOf(row)),
    member ? el("p", { class: "uri" }, images.ids[row]) : null,
    el("p", { class: "uri" }, uri),
    pictures[row] && why ? el("p", { class: "faint" }, `In the sample as one of the ${why}.`) : null,
    facts(row),
    ...runs.filter((run) => runs.length === 1 || run.status[row]).flatMap((run) => runDetail(run, row)));
}

function facts(row) {
  const pairs = [];
  if (images.truth.has(row)) pairs.push(["truth", place(...degreesOf(images.truth, row))]);
  if (images.country[row]) pairs.push([images.hasTruth ? "country" : "country of the place", images.countries[images.country[row]]]);
  return el("table", {}, pairs.map(([name, value]) => el("tr", {}, el("td", { class: "faint" }, name), el("td", {}, value))));
}

function runDetail(run, row) {
  const lines = [], text = run.texts[row];
  const line = (name, value) => lines.push(el("tr", {}, el("td", { class: "faint" }, name), el("td", {}, value)));
  if (run.status[row] === 1) {
    line("place", place(...degreesOf(run.place, row)));
    if (run.error[row] >= 0) line("error", km(run.error[row]));
    images.radii.forEach((radius, at) => {
      const p = run.sure[at]?.[row] ?? 255;
      if (p !== 255) line(`within ${count(radius)} km`, `${Math.round(p / 2.54)} %`);
    });
    if (run.radius && run.radius[row] > 0) line("within, with 90 %", km(run.radius[row]));
    if (run.by && run.by[row]) line("chosen by", run.selectors[run.by[row]]);
  } else {
    line("status", STATUS[run.status[row]]);
    if (run.reason[row]) line("reason", images.reasons[run.reason[row]]);
    if (run.stages[row]) line("at", run.stages[row]);
  }
  if (run.said[row]) line("detail", run.said[row]);
  if (text) line("text", text);
  const made = [];
  if (runs.length > 1) made.push(el("h3", {}, run.name));
  made.push(el("table", {}, lines));
  if (run.status[row] === 1 && run.cell && run.cell[row] && images.truth.has(row)) made.push(...levels(run.cell[row], images.tcell[row]));
  return made;
}

function levels(cell, truth) {
  const most = Math.min(levelOf(cell), levelOf(truth)), shared = sharedLevel(cell, truth);
  const boxes = Array.from({ length: most + 1 }, (_, level) => el("i", { class: level <= shared ? "same" : level === shared + 1 ? "left" : "" }));
  const says = shared === most ? `Its S2 cell is the truth's, down to level ${most}.`
    : shared < 0 ? "Its S2 cell leaves the truth on the first token, the face of the cube."
    : `Its S2 cell leaves the truth at level ${shared + 1}, ${km(LEVEL_KM(shared + 1))} across.`;
  return [el("h3", {}, "S2 levels"), el("div", { class: "levels", role: "img", "aria-label": says }, boxes), el("p", { class: "faint" }, says)];
}
