// The map: a canvas that is drawn anew for each move. Many places are gathered into discs as one zooms out; a disc's
// area grows with the logarithm of its number, its colour is the mean class. Every disc, dot and line is drawn from typed arrays.

const map = { x: 0.5, y: 0.4, k: 0, width: 0, height: 0, ratio: 1, outlines: null, land: null, coarse: null, heat: null, discs: [], shown: 0, gathered: false };
const FEW = 2500, MOST_LINES = 1500, MOST_CELLS = 800;

// Path2D objects in world units, each with the box it lies in; those of a view of the whole world leave out what is smaller
// than `least`. The fine ones are made when they are first seen: they take a third of a second.
function shapes(least) {
  const { points, ends, kinds } = map.outlines.arrays, made = [];
  let start = 0;
  for (let line = 0; line < ends.length; line++) {
    const path = new Path2D(), coast = new Path2D(); // Antarctica is cut along meridians and the pole, which are no coast
    let x0 = 2, x1 = -1, y0 = 2, y1 = -1, lx = -9, ly = -9, taken = 0;
    for (let at = start; at < ends[line]; at++) {
      const x = points[2 * at] / 65534 + 0.5, y = mercator((points[2 * at + 1] * 180) / 32767);
      const last = at === ends[line] - 1;
      if (!last && Math.abs(x - lx) + Math.abs(y - ly) < least) continue;
      const seam = taken && y > 0.85 && (Math.abs(x - lx) < 1e-4 ? Math.abs(y - ly) > 0.002 : y > 0.995 && ly > 0.995);
      if (taken) path.lineTo(x, y);
      else path.moveTo(x, y);
      if (taken++ && !seam) coast.lineTo(x, y);
      else coast.moveTo(x, y);
      [lx, ly] = [x, y];
      x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y);
    }
    start = ends[line];
    if (least && kinds[line] && x1 - x0 + y1 - y0 < 2 * least) continue;
    if (kinds[line] && y1 < 0.85) coast.closePath();
    made.push({ path, coast, kind: kinds[line], x0, x1, y0, y1 });
  }
  return made;
}

// The gallery's grid in the map's projection, values between cells interpolated.
function buildHeat(grid, columns, rows) {
  const side = 768, canvas = new OffscreenCanvas(side, side), context = canvas.getContext("2d"), picture = context.createImageData(side, side);
  const [red, green, blue] = palette.heat.split(",").map(Number);
  const value = (row, column) => grid[Math.min(Math.max(row, 0), rows - 1) * columns + ((column + columns) % columns)];
  for (let y = 0; y < side; y++) {
    const down = ((90 - latitudeOf((y + 0.5) / side)) / 180) * rows - 0.5, row = Math.floor(down), v = down - row;
    for (let x = 0; x < side; x++) {
      const right = ((x + 0.5) / side) * columns - 0.5, column = Math.floor(right), u = right - column, at = 4 * (y * side + x);
      const mean = (1 - v) * ((1 - u) * value(row, column) + u * value(row, column + 1)) + v * ((1 - u) * value(row + 1, column) + u * value(row + 1, column + 1));
      picture.data[at] = red; picture.data[at + 1] = green; picture.data[at + 2] = blue; picture.data[at + 3] = mean * 0.72;
    }
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

// Whole worlds that the view meets: the map goes round.
function worlds(x0, x1) {
  const first = Math.floor(map.x - map.width / 2 / map.k - x1), last = Math.ceil(map.x + map.width / 2 / map.k - x0), found = [];
  for (let world = first; world <= last; world++)
    if (x1 + world >= map.x - map.width / 2 / map.k && x0 + world <= map.x + map.width / 2 / map.k) found.push(world);
  return found;
}

const screenX = (x) => map.width / 2 + (x - map.x) * map.k;
const screenY = (y) => map.height / 2 + (y - map.y) * map.k;
// The copy of a point that is nearest to the middle of the view.
const nearX = (x) => map.width / 2 + (x - map.x - Math.round(x - map.x)) * map.k;

function drawEarth(context) {
  const { ratio, k, width, height } = map;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = palette.sea;
  context.fillRect(0, 0, width, height);
  context.strokeStyle = palette.grid;
  context.lineWidth = 1;
  context.beginPath();
  const step = [30, 10, 5, 1, 0.5][Math.max(0, Math.min(4, Math.floor(Math.log2(k / 1400))))];
  const left = (map.x - width / 2 / k - 0.5) * 360, right = (map.x + width / 2 / k - 0.5) * 360;
  for (let longitude = Math.ceil(left / step) * step; longitude <= right; longitude += step) {
    const x = Math.round(screenX(longitude / 360 + 0.5)) + 0.5;
    context.moveTo(x, 0); context.lineTo(x, height);
  }
  const top = latitudeOf(map.y - height / 2 / k), bottom = latitudeOf(map.y + height / 2 / k);
  for (let latitude = Math.ceil(bottom / step) * step; latitude <= top; latitude += step) {
    const y = Math.round(screenY(mercator(latitude))) + 0.5;
    context.moveTo(0, y); context.lineTo(width, y);
  }
  context.stroke();
  const y0 = map.y - height / 2 / k, y1 = map.y + height / 2 / k;
  const lines = !map.outlines ? [] : k < 2600 ? (map.coarse ??= shapes(0.0011)) : (map.land ??= shapes(0));
  for (const borders of [false, true])
    for (const shape of lines) {
      if ((shape.kind === 0) !== borders || shape.y1 < y0 || shape.y0 > y1) continue;
      for (const world of worlds(shape.x0, shape.x1)) {
        context.setTransform(ratio * k, 0, 0, ratio * k, ratio * screenX(world), ratio * screenY(0));
        context.lineWidth = (borders ? 0.7 : 0.6) / k;
        if (!borders) { context.fillStyle = shape.kind % 2 ? palette.land : palette.sea; context.fill(shape.path); }
        if (shape.y1 > 0.85) { context.strokeStyle = palette.land; context.stroke(shape.path); } // closes the cuts
        context.strokeStyle = borders ? palette.border : palette.coast;
        context.stroke(shape.coast);
      }
    }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (state.gallery && images.gallery) {
    map.heat ??= buildHeat(images.density, images.gallery.columns, images.gallery.rows);
    context.imageSmoothingEnabled = true;
    for (const world of worlds(0, 1)) context.drawImage(map.heat, screenX(world), screenY(0), k, k);
  }
}

function strokeLine(context, line, shift) {
  line.forEach(([x, y], at) => context[at ? "lineTo" : "moveTo"](screenX(x + shift), screenY(y)));
}

const shiftOf = (line) => Math.round(map.x - line[Math.floor(line.length / 2)][0]);

function degreesOf(points, row) {
  return [points.latitude[row] / 1e7, points.longitude[row] / 1e7];
}

// Ends of the line of a row: the place and its truth, or the places in the two runs that are compared.
function endsOf(row) {
  if (state.colour === "change") {
    const [one, other] = versus();
    return one.place.has(row) && other.place.has(row) ? [degreesOf(one.place, row), degreesOf(other.place, row)] : null;
  }
  const here = currentRun().place;
  return here.has(row) && images.truth.has(row) ? [degreesOf(here, row), degreesOf(images.truth, row)] : null;
}

function drawLines(context, rows, colours, classes) {
  const error = currentRun().error;
  let chosen = rows.filter((row) => state.colour === "change" || error[row] > 20);
  if (chosen.length > MOST_LINES) chosen = chosen.sort((a, b) => error[b] - error[a]).slice(0, MOST_LINES);
  context.globalAlpha = chosen.length > 300 ? 0.35 : 0.6;
  context.lineWidth = 1;
  for (let at = colours.length - 1; at >= 0; at--) {
    context.strokeStyle = colours[at];
    context.beginPath();
    for (const row of chosen) {
      if (classes(row) !== at) continue;
      const ends = endsOf(row);
      if (!ends) continue;
      const line = greatCircle(...ends[0], ...ends[1]);
      strokeLine(context, line, shiftOf(line));
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}

function drawCells(context, rows) {
  const area = currentRun().area, seen = new Set();
  context.lineWidth = 1;
  context.strokeStyle = context.fillStyle = palette.plain;
  for (const row of rows) {
    if (area[row] === 0n || seen.has(area[row])) continue;
    seen.add(area[row]);
    if (seen.size > MOST_CELLS) break;
    drawCell(context, area[row], 0.10);
  }
}

function drawCell(context, id, fill) {
  const line = cellOutline(id), shift = shiftOf(line);
  context.beginPath();
  strokeLine(context, line, shift);
  const closed = Math.abs(line[0][0] - line[line.length - 1][0]) < 0.5; // else it holds a pole
  context.globalAlpha = fill;
  if (closed && fill) context.fill();
  context.globalAlpha = Math.min(1, fill * 5 || 1);
  context.stroke();
  context.globalAlpha = 1;
}

// The cells that a place lies in, of every level that can be told apart at this zoom: green down to where they leave the truth.
function drawLevels(context, cell, shared) {
  for (let level = 0; level <= levelOf(cell); level++) {
    const pixels = (LEVEL_KM(level) / 40030) * map.k;
    if (pixels < 16 || pixels > 4 * Math.max(map.width, map.height)) continue;
    context.strokeStyle = level <= shared ? palette.c2 : palette.c5;
    context.lineWidth = level === shared + 1 ? 2.4 : 1.3;
    drawCell(context, parentOf(cell, level), 0);
  }
}

function disc(context, x, y, radius) {
  context.moveTo(x + radius, y);
  context.arc(x, y, radius, 0, 2 * Math.PI);
}

function visible(points) {
  const rows = [], margin = 8;
  for (const row of kept.rows) {
    const y = screenY(points.y[row]);
    if (!(y > -margin && y < map.height + margin)) continue; // false for NaN, too
    const x = nearX(points.x[row]);
    if (x > -margin && x < map.width + margin) rows.push(row);
  }
  return rows;
}

function drawDots(context, rows, points, colours, classes) {
  const base = rows.length > 800 ? 2.6 : rows.length > 150 ? 3.4 : 4.4;
  context.lineWidth = 0.8;
  context.strokeStyle = palette.card;
  for (let at = 0; at < colours.length; at++) {
    context.beginPath();
    for (const row of rows) if (classes(row) === at) disc(context, nearX(points.x[row]), screenY(points.y[row]), base + at * 0.25);
    context.fillStyle = colours[at];
    context.fill();
    context.stroke();
  }
}

function gather(rows, points, classes, size) {
  // Bins hang on the world, not on the screen, so that discs keep still while the map moves.
  const cell = 2 ** Math.floor(Math.log2((size * 1.9) / map.k)), bins = new Map(), span = Math.round(1 / cell);
  for (const row of rows) {
    const key = Math.floor(points.y[row] / cell) * span + (Math.floor(points.x[row] / cell) % span);
    let bin = bins.get(key);
    if (!bin) bins.set(key, (bin = { n: 0, sum: 0, classed: 0, x: 0, y: 0, row, cell }));
    const one = classes(row);
    bin.n++;
    bin.x += points.x[row];
    bin.y += points.y[row];
    if (one >= 0) { bin.sum += one; bin.classed++; }
  }
  return [...bins.values()].map((bin) => ({ ...bin, x: bin.x / bin.n, y: bin.y / bin.n, mean: bin.classed ? Math.round(bin.sum / bin.classed) : -1, cell: cell * map.k }));
}

function drawDiscs(context, discs, colours) {
  const most = Math.log1p(discs.reduce((most, bin) => Math.max(most, bin.n), 1));
  context.lineWidth = 0.8;
  context.strokeStyle = palette.card;
  for (let at = -1; at < colours.length; at++) {
    context.beginPath();
    for (const bin of discs) {
      if (bin.mean !== at) continue;
      bin.radius = bin.cell * (0.16 + 0.34 * (Math.log1p(bin.n) / most));
      disc(context, nearX(bin.x), screenY(bin.y), bin.radius);
    }
    context.fillStyle = at < 0 ? palette.faint : colours[at];
    context.globalAlpha = 0.92;
    context.fill();
    context.globalAlpha = 1;
    context.stroke();
  }
}

function drawChosen(context) {
  const row = state.chosen;
  if (row < 0) return;
  const run = currentRun(), here = run.place.has(row) ? degreesOf(run.place, row) : null, truth = images.truth.has(row) ? degreesOf(images.truth, row) : null;
  const extra = images.details[row];
  context.strokeStyle = context.fillStyle = palette.plain;
  context.lineWidth = 1.2;
  if (run.area && run.area[row]) drawCell(context, run.area[row], 0.14);
  if (state.areas && run.cell && run.cell[row]) drawLevels(context, run.cell[row], truth && images.tcell[row] ? sharedLevel(run.cell[row], images.tcell[row]) : 20);
  else if (run.cell && run.cell[row] && truth && images.tcell[row]) {
    const shared = sharedLevel(run.cell[row], images.tcell[row]);
    context.setLineDash([4, 3]);
    context.strokeStyle = palette.c2;
    if (shared >= 1) drawCell(context, parentOf(run.cell[row], shared), 0);
    context.setLineDash([]);
  }
  if (here && run.radius && run.radius[row] > 0) {
    const line = circle(...here, run.radius[row]);
    context.setLineDash([2, 4]);
    context.strokeStyle = palette.mark;
    context.beginPath();
    strokeLine(context, line, shiftOf(line));
    context.stroke();
    context.setLineDash([]);
  }
  if (extra) {
    context.globalAlpha = 0.85;
    for (const [points, colour] of [[extra.neighbours, palette.c2], [extra.candidates, palette.c3]]) {
      context.fillStyle = colour;
      context.beginPath();
      for (const [latitude, longitude] of points || []) disc(context, nearX(longitude / 360 + 0.5), screenY(mercator(latitude)), 2.6);
      context.fill();
    }
    context.globalAlpha = 1;
  }
  const ends = endsOf(row);
  context.strokeStyle = palette.mark;
  context.lineWidth = 2;
  if (ends) {
    const line = greatCircle(...ends[0], ...ends[1]);
    context.beginPath();
    strokeLine(context, line, shiftOf(line));
    context.stroke();
  }
  const mark = (point, radius, fill) => {
    context.beginPath();
    disc(context, nearX(point[1] / 360 + 0.5), screenY(mercator(point[0])), radius);
    context.fillStyle = fill;
    context.fill();
    context.stroke();
  };
  if (state.colour === "change")
    for (const other of versus()) if (other !== run && other.place.has(row)) mark(degreesOf(other.place, row), 5, palette.faint);
  if (truth) mark(truth, 5, palette.card);
  if (here) mark(here, 7, palette.plain);
}

let asked = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; paint(); });
}

function paint() {
  const canvas = $("map"), context = canvas.getContext("2d");
  const { clientWidth, clientHeight } = canvas, ratio = window.devicePixelRatio || 1;
  if (!clientWidth || !clientHeight) return;
  if (canvas.width !== Math.round(clientWidth * ratio) || canvas.height !== Math.round(clientHeight * ratio)) {
    canvas.width = Math.round(clientWidth * ratio);
    canvas.height = Math.round(clientHeight * ratio);
  }
  Object.assign(map, { width: clientWidth, height: clientHeight, ratio });
  hold();
  drawEarth(context);
  const colouring = colourings()[state.colour], colours = colouring.names.map((name) => palette[name]), classes = colouring.of();
  const run = state.colour === "change" ? versus()[1] : currentRun();
  const points = state.draw === "truths" ? images.projected : run.projected;
  const rows = visible(points);
  map.gathered = rows.length > FEW;
  map.shown = rows.length;
  if (state.areas && run.hasArea) drawCells(context, rows);
  if (state.lines && state.draw !== "truths" && images.hasTruth && !map.gathered) drawLines(context, rows, colours, classes);
  if (state.draw === "both" && !map.gathered) {
    context.strokeStyle = palette.mark;
    context.lineWidth = 1;
    context.beginPath();
    for (const row of rows) if (images.truth.has(row)) disc(context, nearX(images.projected.x[row]), screenY(images.projected.y[row]), 3);
    context.stroke();
  }
  map.discs = map.gathered ? gather(rows, points, classes, 11) : [];
  map.points = points;
  map.rows = rows;
  if (map.gathered) drawDiscs(context, map.discs, colours);
  else drawDots(context, rows, points, colours, classes);
  drawChosen(context);
  $("said").textContent = map.gathered
    ? `${count(rows.length)} images in view, gathered: a disc's colour is the mean class. Zoom in for single ones and their lines.`
    : `${count(rows.length)} ${rows.length === 1 ? "image" : "images"} in view`;
}

// Keeps the view on the map: never wider than the world, never beyond its rims.
function hold() {
  const least = Math.max(map.width, map.height);
  map.k = Math.min(Math.max(map.k || 0, least), 2 ** 24);
  map.x -= Math.floor(map.x);
  const half = map.height / 2 / map.k;
  map.y = Math.min(Math.max(map.y, half), 1 - half);
}

function zoom(factor, x = map.width / 2, y = map.height / 2) {
  const before = [map.x + (x - map.width / 2) / map.k, map.y + (y - map.height / 2) / map.k];
  map.k = Math.min(Math.max(map.k * factor, Math.max(map.width, map.height)), 2 ** 24);
  map.x = before[0] - (x - map.width / 2) / map.k;
  map.y = before[1] - (y - map.height / 2) / map.k;
  draw();
}

function home() {
  Object.assign(map, { x: 0.5, y: mercator(24), k: 0 });
  draw();
}

// Shows a row with both ends of its line, not nearer than 300 km across.
function show(row) {
  const run = currentRun(), ends = [run.place, images.truth].filter((points) => points.has(row)).map((points) => degreesOf(points, row));
  if (!ends.length) return;
  const line = greatCircle(...ends[0], ...ends.at(-1));
  const xs = line.map(([x]) => x), ys = line.map(([, y]) => y);
  const wide = Math.max(Math.max(...xs) - Math.min(...xs), 0.006), high = Math.max(Math.max(...ys) - Math.min(...ys), 0.006);
  map.x = (Math.max(...xs) + Math.min(...xs)) / 2;
  map.y = (Math.max(...ys) + Math.min(...ys)) / 2;
  map.k = Math.min((0.7 * map.width) / wide, (0.7 * map.height) / high);
  draw();
}

// What lies under a point of the screen: a row, a disc, or nothing.
function under(x, y) {
  for (const bin of map.discs) {
    if (Math.hypot(nearX(bin.x) - x, screenY(bin.y) - y) <= (bin.radius || 0) + 2) return bin.n === 1 ? { row: bin.row } : { bin };
  }
  if (map.gathered || !map.rows) return null;
  let best = 12, found = null;
  for (const row of map.rows) {
    const far = Math.hypot(nearX(map.points.x[row]) - x, screenY(map.points.y[row]) - y);
    if (far < best) { best = far; found = { row }; }
  }
  return found;
}
