// The map: a canvas that is drawn anew for each move, the Earth below and marks (marks.js) on it.

const map = { x: 0.5, y: 0.4, k: 0, width: 0, height: 0, ratio: 1, outlines: null, land: null, coarse: null, heat: null, rows: [], rings: [], discs: [], cells: [], lines: [], shown: 0, gathered: false };
const FEW = 2500;

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
  const rows = visible(points), rings = state.draw === "both" ? visible(images.projected) : [], notes = [];
  const cut = (drawn, found, what) => { if (drawn < found) notes.push(`${count(drawn)} of ${count(found)} ${what}.`); };
  Object.assign(map, { points, rows, rings, shown: rows.length, gathered: Math.max(rows.length, rings.length) > FEW, cells: [], lines: [], discs: [] });
  if (state.areas && run.hasArea) cut(MOST_CELLS, drawCells(context, rows, run, colours, classes), "S2 areas are drawn; zoom in for the rest");
  if (state.lines && state.draw !== "truths" && images.hasTruth && !map.gathered)
    cut(MOST_LINES, drawLines(context, rings.length ? [...new Set([...rows, ...rings])] : rows, colours, classes), "lines are drawn, the longest");
  if (!map.gathered) drawRings(context, rings);
  if (map.gathered) drawDiscs(context, (map.discs = gather(rows, points, classes, 11)), colours);
  else drawDots(context, rows, points, colours, classes);
  drawChosen(context);
  const both = state.draw === "both" && !map.gathered;
  const seen = both ? `${count(rows.length)} places and ${count(rings.length)} truths in view` : `${count(rows.length)} ${rows.length === 1 ? "image" : "images"} in view`;
  if (map.gathered) notes.unshift(state.draw === "both" ? `Zoom in for single ones, their lines and the ${count(rings.length)} truths in view, which are not drawn.` : "Zoom in for single ones and their lines.");
  const means = map.discs.some((bin) => bin.classed < bin.n) ? "the colour of a disc's core is the mean class, its area the share that has one" : "a disc's colour is the mean class";
  $("said").textContent = [map.gathered ? `${seen}, gathered: ${means}.` : `${seen}${notes.length ? "." : ""}`, ...notes].join(" ");
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
  if (map.gathered) return null;
  let best = 12, found = null;
  for (const [rows, points] of [[map.rows, map.points], [map.rings, images.projected]])
    for (const row of rows) {
      const far = Math.hypot(nearX(points.x[row]) - x, screenY(points.y[row]) - y);
      if (far < best) { best = far; found = { row }; }
    }
  return found;
}
