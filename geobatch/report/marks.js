// What the map draws of images: lines, areas, dots, discs, and the one that was chosen, each from typed arrays. Class -1 is of
// those that a colouring says nothing of, and is drawn as well: an image without a truth is still a place.

const MOST_LINES = 1500, MOST_CELLS = 800, SHORTEST = 6; // pixels of a line: less is under its dots

function strokeLine(context, line, shift) {
  line.forEach(([x, y], at) => context[at ? "lineTo" : "moveTo"](screenX(x + shift), screenY(y)));
}

const shiftOf = (line) => Math.round(map.x - line[Math.floor(line.length / 2)][0]);

function degreesOf(points, row) {
  return [points.latitude[row] / 1e7, points.longitude[row] / 1e7];
}

// Ends of the line of a row: the place and its truth, or the places in the two runs that are compared.
const endsOfLines = () => (state.colour === "change" ? versus().map((run) => run.place) : [currentRun().place, images.truth]);

function endsOf(row) {
  const [one, other] = endsOfLines();
  return one.has(row) && other.has(row) ? [degreesOf(one, row), degreesOf(other, row)] : null;
}

// Lines whose ends can be told apart at this zoom, the longest first where they are too many; returns how many there are.
function drawLines(context, rows, colours, classes) {
  const [one, other] = state.colour === "change" ? versus().map((run) => run.projected) : [currentRun().projected, images.projected], long = new Map();
  for (const row of rows) {
    const across = one.x[row] - other.x[row], pixels = map.k * Math.hypot(across - Math.round(across), one.y[row] - other.y[row]);
    if (pixels > SHORTEST) long.set(row, pixels); // false for NaN, too
  }
  const chosen = (map.lines = [...long.keys()]);
  if (chosen.length > MOST_LINES) chosen.sort((a, b) => long.get(b) - long.get(a)).length = MOST_LINES;
  context.globalAlpha = chosen.length > 300 ? 0.35 : 0.6;
  context.lineWidth = 1;
  for (let at = colours.length - 1; at >= -1; at--) {
    context.strokeStyle = at < 0 ? palette.none : colours[at];
    context.beginPath();
    for (const row of chosen) {
      if (classes(row) !== at) continue;
      const line = greatCircle(...endsOf(row).flat());
      strokeLine(context, line, shiftOf(line));
    }
    context.stroke();
  }
  context.globalAlpha = 1;
  return long.size;
}

// A run's distinct areas and the number of each row's; 100,000 of them take 40 ms, once.
function areasOf(run) {
  if (!run.areas) {
    const numbers = new Map();
    const at = Int32Array.from(run.area, (id) => {
      if (id === 0n) return -1;
      if (!numbers.has(id)) numbers.set(id, numbers.size);
      return numbers.get(id);
    });
    run.areas = { ids: [...numbers.keys()], at };
  }
  return run.areas;
}

// Areas in the mean class of their images, the worst on top and kept where they are too many; returns how many there are.
function drawCells(context, rows, run, colours, classes) {
  const { ids, at } = areasOf(run), found = new Map();
  for (const row of rows) {
    if (at[row] < 0) continue;
    let one = found.get(at[row]);
    if (!one) found.set(at[row], (one = { id: ids[at[row]], sum: 0, classed: 0 }));
    const is = classes(row);
    if (is >= 0) { one.sum += is; one.classed++; }
  }
  const cells = [...found.values()].map((one) => ({ id: one.id, mean: one.classed ? Math.round(one.sum / one.classed) : -1 })).sort((a, b) => b.mean - a.mean);
  map.cells = cells.slice(0, MOST_CELLS).reverse();
  context.lineWidth = 1;
  for (const one of map.cells) {
    context.strokeStyle = context.fillStyle = one.mean < 0 ? palette.none : colours[one.mean];
    drawCell(context, one.id, 0.1);
  }
  return cells.length;
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
  for (let at = -1; at < colours.length; at++) {
    context.beginPath();
    for (const row of rows) if (classes(row) === at) disc(context, nearX(points.x[row]), screenY(points.y[row]), base + at * 0.25);
    context.fillStyle = at < 0 ? palette.none : colours[at];
    context.fill();
    context.stroke();
  }
}

// Truths beside places, also of images that have no place.
function drawRings(context, rows) {
  context.strokeStyle = palette.mark;
  context.lineWidth = 1;
  context.beginPath();
  for (const row of rows) disc(context, nearX(images.projected.x[row]), screenY(images.projected.y[row]), 3);
  context.stroke();
}

function gather(rows, points, classes, size) {
  // Bins hang on the world, not on the screen, so that discs keep still while the map moves.
  const cell = 2 ** Math.floor(Math.log2((size * 1.9) / map.k)), bins = new Map(), span = Math.round(1 / cell);
  for (const row of rows) {
    const x = points.x[row] % 1; // 180° E is 180° W
    const key = Math.floor(points.y[row] / cell) * span + Math.floor(x / cell);
    let bin = bins.get(key);
    if (!bin) bins.set(key, (bin = { n: 0, sum: 0, classed: 0, x: 0, y: 0, row, cell }));
    const one = classes(row);
    bin.n++;
    bin.x += x;
    bin.y += points.y[row];
    if (one >= 0) { bin.sum += one; bin.classed++; }
  }
  return [...bins.values()].map((bin) => ({ ...bin, x: bin.x / bin.n, y: bin.y / bin.n, mean: bin.classed ? Math.round(bin.sum / bin.classed) : -1, cell: cell * map.k }));
}

// A disc's area grows with the logarithm of its number; its core is in the mean class of those that have one, as large as
// their share of all: few known truths must not colour what lies about them.
function drawDiscs(context, discs, colours) {
  const most = Math.log1p(discs.reduce((most, bin) => Math.max(most, bin.n), 1));
  context.lineWidth = 0.8;
  context.strokeStyle = palette.card;
  const fill = (bins, radius, colour) => {
    context.beginPath();
    for (const bin of bins) disc(context, nearX(bin.x), screenY(bin.y), radius(bin));
    context.fillStyle = colour;
    context.globalAlpha = 0.92;
    context.fill();
    context.globalAlpha = 1;
    context.stroke();
  };
  for (const bin of discs) bin.radius = bin.cell * (0.16 + 0.34 * (Math.log1p(bin.n) / most));
  fill(discs.filter((bin) => bin.classed < bin.n), (bin) => bin.radius, palette.none);
  for (let at = 0; at < colours.length; at++)
    fill(discs.filter((bin) => bin.mean === at), (bin) => Math.max(2, bin.radius * Math.sqrt(bin.classed / bin.n)), colours[at]);
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
