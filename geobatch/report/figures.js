// Figures below the map: the curve, tables, findings, rejections, throughput and cost.

const SHADES = ["c0", "c4", "c2", "c5", "c3", "c1"];
const CURVE = { width: 620, height: 300, left: 40, right: 14, top: 18, bottom: 34 };

function curveX(distance) {
  const [low, high] = [Math.log10(0.5), Math.log10(20015)];
  return CURVE.left + ((Math.log10(Math.max(distance, 0.5)) - low) / (high - low)) * (CURVE.width - CURVE.left - CURVE.right);
}

const curveY = (share) => CURVE.top + (1 - share) * (CURVE.height - CURVE.top - CURVE.bottom);
const pathOf = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// Kilometres below which two distances are the same, as in an evaluation.
const CLOSE = 1;

// Whether the page holds a part of the images alone: its ends and a draw, which have other shares than all.
const partly = () => images.size < runs[0].totals.images;
const ofPage = () => `${count(images.size)} images on this page, ends and a draw of ${count(runs[0].totals.images)}`;

// Share within each of the page's distances, of the rows that the filters left.
function curveOf(run, rows) {
  const errors = Float32Array.from(rows.filter((row) => images.truth.has(row)), (row) => (run.error[row] >= 0 ? run.error[row] : Infinity)).sort();
  if (!errors.length) return null;
  let at = 0;
  return images.curve.map((distance) => {
    while (at < errors.length && errors[at] <= distance) at++;
    return at / errors.length;
  });
}

function drawCurve() {
  const target = $("curve");
  if (!target) return;
  const filtered = kept.rows.length < images.size, lines = [], keys = [];
  runs.forEach((run, at) => {
    const colour = `var(--${SHADES[at % SHADES.length]})`;
    const points = (shares) => images.curve.map((distance, i) => [curveX(distance), curveY(shares[i])]).filter((_, i) => images.curve[i] >= 0.5);
    if (run.totals.curve) {
      lines.push(el("path", { class: filtered ? "line dim" : "line", d: pathOf(points(run.totals.curve)), style: { stroke: filtered ? "var(--faint)" : colour } }));
      keys.push(el("span", {}, el("i", { style: { background: filtered ? "var(--faint)" : colour } }), filtered ? `${run.name}, all` : run.name));
    }
    const shares = filtered ? curveOf(run, kept.rows) : null;
    if (shares) {
      lines.push(el("path", { class: "line", d: pathOf(points(shares)), style: { stroke: colour } }));
      keys.push(el("span", {}, el("i", { style: { background: colour } }), `${run.name}, filtered${partly() ? `, of the ${ofPage()}` : ""}`));
    }
  });
  const grid = [];
  for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    grid.push(el("line", { class: "axis", x1: CURVE.left, x2: CURVE.width - CURVE.right, y1: curveY(share), y2: curveY(share) }));
    grid.push(el("text", { x: CURVE.left - 6, y: curveY(share) + 4, "text-anchor": "end" }, `${100 * share} %`));
  }
  for (const distance of images.radii) {
    grid.push(el("line", { class: "axis", x1: curveX(distance), x2: curveX(distance), y1: curveY(1), y2: curveY(0) }));
    grid.push(el("text", { x: curveX(distance), y: curveY(0) + 16, "text-anchor": "middle" }, count(distance)));
  }
  grid.push(el("text", { x: (CURVE.left + CURVE.width) / 2, y: CURVE.height - 2, "text-anchor": "middle" }, "kilometres between the place and the truth"));
  const said = runs.map((run) => `${run.name}: ${images.radii.map((radius) => `${percent(run.totals.shares?.[radius] ?? 0)} within ${radius} km`).join(", ")}`).join("; ");
  fill(target, el("svg", { viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, role: "img", "aria-label": said }, grid, lines), el("div", { class: "keys" }, keys));
}

// What was stated against what came true, in ten bands of stated probability, for the radius of the filter.
function drawDoubt() {
  const target = $("doubt");
  if (!target) return;
  const side = 210, left = 40, radius = images.radii[state.radius], lines = [], keys = [];
  const at = (x, y) => [left + x * side, 14 + (1 - y) * side];
  runs.forEach((run, number) => {
    const sure = run.sure[state.radius];
    if (!sure) return;
    const bands = Array.from({ length: 10 }, () => ({ n: 0, stated: 0, hit: 0 }));
    for (const row of kept.rows) {
      if (sure[row] === 255 || !images.truth.has(row)) continue;
      const band = bands[Math.min(9, Math.floor(sure[row] / 25.4))];
      band.n++;
      band.stated += sure[row] / 254;
      band.hit += run.error[row] <= radius ? 1 : 0;
    }
    const whole = bands.reduce((sum, band) => sum + band.n, 0), colour = `var(--${SHADES[number % SHADES.length]})`;
    const points = bands.filter((band) => band.n).map((band) => ({ band, at: at(band.stated / band.n, band.hit / band.n) }));
    lines.push(el("path", { class: "line", d: pathOf(points.map((one) => one.at)), style: { stroke: colour } }));
    for (const { band, at: [x, y] } of points)
      lines.push(el("circle", { cx: x, cy: y, r: 2.5 + 9 * Math.sqrt(band.n / whole), style: { fill: colour, "fill-opacity": 0.55 } }, el("title", {}, `${count(band.n)} images: ${percent(band.stated / band.n)} stated, ${percent(band.hit / band.n)} came true`)));
    keys.push(el("span", {}, el("i", { style: { background: colour } }), run.name));
  });
  const grid = [];
  for (const value of [0, 0.5, 1]) {
    const [x, y] = at(value, value);
    grid.push(el("line", { class: "axis", x1: left, x2: left + side, y1: y, y2: y }), el("line", { class: "axis", x1: x, x2: x, y1: 14, y2: 14 + side }));
    grid.push(el("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, `${100 * value} %`), el("text", { x, y: side + 30, "text-anchor": "middle" }, `${100 * value} %`));
  }
  grid.push(el("path", { class: "line dim", d: pathOf([at(0, 0), at(1, 1)]), style: { stroke: "var(--faint)" } }));
  const words = `Across: the stated probability of being within ${count(radius)} km. Up: the share that was. On the diagonal a probability is what it says; a dot's area is its number of images.${partly() ? ` Counted are the ${ofPage()}: not what a probability is worth over all.` : ""}`;
  fill(target, el("div", { class: "doubt" }, el("svg", { viewBox: `0 0 ${left + side + 20} ${side + 36}`, role: "img", "aria-label": words }, grid, lines), el("div", {}, el("p", { class: "faint" }, words), runs.length > 1 ? el("div", { class: "keys" }, keys) : null)));
}

function share(value) {
  const digits = value > 0 && value < 0.0995 ? 2 : 1;
  return percent(value, digits);
}

// One row a choice: of evaluations where there are some, else of the runs themselves.
function figureRows() {
  const rows = [];
  for (const run of runs) {
    const own = run.choices.length ? run.choices : run.totals.shares ? [{ name: "chosen", shares: run.totals.shares, median_km: run.totals.median_km, mean_km: run.totals.mean_km, images: run.totals.judged }] : [];
    for (const one of own) rows.push({ ...one, name: runs.length > 1 ? (one.name === "chosen" ? run.name : `${run.name}: ${one.name}`) : one.name });
  }
  return rows;
}

function cell(value, best) {
  const plain = typeof value === "object" && value ? value : { value };
  if (plain.value === undefined || plain.value === null) return el("td", {}, "–");
  return el("td", { class: best ? "best" : null }, share(plain.value).replace(" %", ""), plain.low === undefined || plain.low === null ? null : el("span", { class: "range" }, `${(100 * plain.low).toFixed(1)}…${(100 * plain.high).toFixed(1)}`));
}

function drawFigures() {
  const rows = figureRows(), target = $("figures");
  if (!rows.length) {
    fill(target, el("div", {}, el("h2", {}, "Accuracy"), el("p", { class: "faint" }, "No truth was given, so nothing is said of accuracy. Write the page with --truth to see it.")));
    return;
  }
  const value = (row, radius) => (typeof row.shares[radius] === "object" ? row.shares[radius]?.value : row.shares[radius]);
  const fair = rows.filter((row) => !row.name.includes("oracle") && !row.published);
  // Shares of different numbers of images are of different ones: none of them is the best.
  const peers = (row) => (fair.includes(row) ? fair.filter((other) => other.images === row.images) : []);
  const best = (row, radius) => peers(row).length > 1 && value(row, radius) > 0 && peers(row).every((other) => !(value(other, radius) > value(row, radius)));
  const table = el("table", {},
    el("thead", {}, el("tr", {}, el("th", {}, "% of images, within"), images.radii.map((radius) => el("th", {}, `${count(radius)} km`)), el("th", {}, "median km"), el("th", {}, "mean km"), el("th", {}, "images"))),
    el("tbody", {}, rows.map((row) => el("tr", { class: fair.includes(row) ? null : "faint" }, el("td", {}, row.name, row.published ? el("span", { class: "range" }, `published: ${row.published}`) : null),
      images.radii.map((radius) => cell(row.shares[radius], best(row, radius))),
      el("td", {}, km(row.median_km ?? NaN).replace(" km", "")), el("td", {}, km(row.mean_km ?? NaN).replace(" km", "")),
      el("td", {}, Number.isFinite(row.images) ? count(row.images) : "–")))));
  const notes = ["Of the images whose truth is known; one without a place counts as beyond every distance."];
  if (new Set(fair.map((row) => row.images)).size > 1) notes.push("Rows of different numbers of images are not of the same ones: the best is marked among those of one number.");
  if (rows.some((row) => row.name.includes("oracle"))) notes.push("An oracle picks with the truth at hand: a bound, no method.");
  for (const run of runs)
    if (run.lacking) notes.push(`${runs.length > 1 ? `${run.name}: missing` : "Missing"} counted: ${count(run.lacking)} images that the table lacks count as wrong in this table, not in the tiles and curves.`);
  if (rows.some((row) => row.published)) notes.push("Published rows are their authors' own, on the benchmark's whole.");
  if (rows.some((row) => row.shares[images.radii[0]]?.low !== undefined)) notes.push("Small figures: 95 % intervals.");
  const doubt = runs.some((run) => run.hasSure) ? [el("h2", { class: "under" }, "Stated and true"), el("div", { id: "doubt" })] : null;
  fill(target,
    el("div", {}, el("h2", {}, "Accuracy over distance"), el("div", { id: "curve" }), rows.length > 4 ? doubt : null),
    el("div", {}, el("h2", {}, "Figures"), el("div", { class: "wide" }, table), duel(), el("p", { class: "faint", style: { "margin-top": "8px" } }, notes.join(" ")), rows.length > 4 ? null : doubt));
  drawCurve();
  drawDoubt();
}

// Wins and losses of later runs against the first, image by image, over the images that both hold.
function duel() {
  if (runs.length < 2 || !images.hasTruth) return null;
  const lines = runs.slice(1).map((run) => {
    let nearer = 0, farther = 0, same = 0, lacking = 0;
    for (let row = 0; row < images.size; row++) {
      if (!images.truth.has(row)) continue;
      if (!run.status[row]) {
        lacking++;
        continue;
      }
      const was = runs[0].error[row] >= 0 ? runs[0].error[row] : Infinity, is = run.error[row] >= 0 ? run.error[row] : Infinity;
      if (is + CLOSE < was) nearer++;
      else if (was + CLOSE < is) farther++;
      else same++;
    }
    return `${run.name} is nearer than ${runs[0].name} on ${count(nearer)} images, farther on ${count(farther)}, the same (${CLOSE} km) on ${count(same)}${partly() ? `, of the ${ofPage()}` : ""}${lacking ? `; ${count(lacking)} that it does not hold are left out` : ""}.`;
  });
  return lines.map((line) => el("p", { style: { "margin-top": "8px" } }, line));
}

function drawFindings() {
  const target = $("findings"), found = runs.flatMap((run) => run.findings.map((one) => ({ ...one, run: run.name })));
  target.hidden = !found.length;
  fill(target, el("h2", {}, "What the evaluation found"), el("ul", { class: "findings" }, found.map((one) =>
    el("li", {}, el("b", {}, runs.length > 1 ? `${one.run}: ${one.title}` : one.title), one.sentence, one.rows?.length ? el("details", {}, el("summary", {}, "the numbers"), el("div", { class: "wide" }, plainTable(one.rows))) : null))));
}

// A table of whatever an analysis found: numbers short, shares with their intervals.
function plainTable(rows) {
  const names = Object.keys(rows[0]);
  const text = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value === "object") return "value" in value ? `${(100 * value.value).toFixed(1)} % (${(100 * value.low).toFixed(1)}…${(100 * value.high).toFixed(1)})` : JSON.stringify(value);
    return typeof value !== "number" ? String(value) : Number.isInteger(value) ? count(value) : value.toPrecision(3);
  };
  return el("table", {}, el("thead", {}, el("tr", {}, names.map((name) => el("th", {}, name.replaceAll("_", " "))))), el("tbody", {}, rows.map((row) => el("tr", {}, names.map((name) => el("td", {}, text(row[name])))))));
}

function drawRejections() {
  const target = $("rejections");
  fill(target, el("h2", {}, "Rejected images"), ...runs.flatMap((run) => {
    const made = runs.length > 1 ? [el("h3", {}, run.name)] : [];
    if (!run.totals.reasons.length) return [...made, el("p", { class: "faint" }, "None: every image was placed.")];
    return [...made, ...run.totals.reasons.map((one) => el("details", {},
      el("summary", {}, el("b", {}, one.reason), el("span", {}, one.advice || ""), count(one.images)),
      el("ul", {}, one.examples.map((example) => el("li", {}, el("span", { class: "mono" }, example.image_id), example.detail ? el("div", { class: "faint" }, example.detail) : null)))))];
  }));
}

function bars(pairs, label) {
  const most = Math.max(...pairs.map(([, value]) => value), 1e-9);
  return el("div", { class: "bars" }, pairs.flatMap(([name, value]) => [el("span", {}, name), el("i", { style: { width: `${(100 * value) / most}%` } }), el("span", {}, label(value))]));
}

function drawAccount() {
  const target = $("account"), known = runs.filter((run) => run.account);
  target.hidden = !known.length;
  fill(target, el("h2", {}, "Throughput and cost"), el("div", { class: "twin" }, known.map((run) => {
    const { seconds, pairs } = run.account;
    return el("div", {}, runs.length > 1 ? el("h3", {}, run.name) : null,
      el("dl", { class: "pairs" }, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      seconds.length ? el("h3", {}, "Seconds of work by stage, all actors together") : null,
      seconds.length ? bars(seconds, duration) : null);
  })));
}

function drawFacts() {
  const pairs = runs.flatMap((run) => (runs.length > 1 ? [["run", run.name]] : []).concat(run.facts)).concat(images.facts);
  fill($("facts"), el("h2", {}, "About this page"), el("dl", { class: "pairs" }, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { class: "mono" }, value)])));
}

function drawTiles() {
  const run = currentRun(), { totals } = run, tiles = [["images", count(totals.images)], ["placed", count(totals.placed)], ["rejected", count(totals.rejected)]];
  if (totals.shares) {
    const held = run.lacking ? ", of those in the table" : "";
    for (const radius of images.radii.slice(1, 3)) tiles.push([`within ${count(radius)} km${held}`, share(totals.shares[radius])]);
    if (totals.median_km !== undefined) tiles.push([`median error${held}`, km(totals.median_km)]);
  }
  for (const [name, value] of run.account?.tiles || []) tiles.push([name, value]);
  fill($("tiles"), ...tiles.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
