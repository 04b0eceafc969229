// The Earth on a square: Web Mercator in [0, 1), great circles, and S2 cells from their ids.

const RIM = 85.0511287798;

function mercator(latitude) {
  const sine = Math.sin((Math.max(-RIM, Math.min(RIM, latitude)) * Math.PI) / 180);
  return 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI);
}

const latitudeOf = (y) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;

function vector(latitude, longitude) {
  const phi = (latitude * Math.PI) / 180, lambda = (longitude * Math.PI) / 180;
  return [Math.cos(phi) * Math.cos(lambda), Math.cos(phi) * Math.sin(lambda), Math.sin(phi)];
}

const worldOf = ([x, y, z]) => [Math.atan2(y, x) / (2 * Math.PI) + 0.5, mercator((Math.atan2(z, Math.hypot(x, y)) * 180) / Math.PI)];

// Points [x, y] of the shortest line between two places in degrees; x runs on past the rim, so that no line crosses the map.
function greatCircle(lat1, lon1, lat2, lon2) {
  const a = vector(lat1, lon1), b = vector(lat2, lon2);
  const cosine = Math.max(-1, Math.min(1, a[0] * b[0] + a[1] * b[1] + a[2] * b[2]));
  const angle = Math.acos(cosine), steps = Math.max(1, Math.ceil(angle / 0.05));
  const line = [];
  for (let step = 0; step <= steps; step++) {
    const t = step / steps;
    const wa = angle < 1e-4 ? 1 - t : Math.sin((1 - t) * angle) / Math.sin(angle);
    const wb = angle < 1e-4 ? t : Math.sin(t * angle) / Math.sin(angle);
    const point = worldOf(a.map((value, axis) => wa * value + wb * b[axis]));
    if (line.length) point[0] += Math.round(line[line.length - 1][0] - point[0]);
    line.push(point);
  }
  return line;
}

function circle(latitude, longitude, radiusKm) {
  const angle = Math.min(radiusKm / 6371, Math.PI - 1e-6), phi = (latitude * Math.PI) / 180, line = [];
  for (let step = 0; step <= 72; step++) {
    const turn = (step * Math.PI) / 36;
    const sine = Math.sin(phi) * Math.cos(angle) + Math.cos(phi) * Math.sin(angle) * Math.cos(turn);
    const lambda = Math.atan2(Math.sin(turn) * Math.sin(angle) * Math.cos(phi), Math.cos(angle) - Math.sin(phi) * sine);
    const point = [(longitude + (lambda * 180) / Math.PI) / 360 + 0.5, mercator((Math.asin(sine) * 180) / Math.PI)];
    if (line.length) point[0] += Math.round(line[line.length - 1][0] - point[0]);
    line.push(point);
  }
  return line;
}

const CHILD = [[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]];
const TURN = [1, 0, 0, 3];

function levelOf(id) {
  let zeros = 0;
  while (!(id & 1n)) { id >>= 1n; zeros++; }
  return 30 - zeros / 2;
}

function parentOf(id, level) {
  const last = 1n << BigInt(60 - 2 * level);
  return (id & ~((last << 1n) - 1n)) | last;
}

const tokenOf = (id) => id.toString(16).padStart(16, "0").replace(/0+$/, "");

const onSphere = (s) => (s >= 0.5 ? (4 * s * s - 1) / 3 : (1 - 4 * (1 - s) * (1 - s)) / 3);
const FACES = [(u, v) => [1, u, v], (u, v) => [-u, 1, v], (u, v) => [-u, -v, 1], (u, v) => [-1, -v, -u], (u, v) => [v, -1, -u], (u, v) => [v, u, -1]];

// The outline of a cell, points [x, y] along its four edges.
function cellOutline(id) {
  const face = Number(id >> 61n), level = levelOf(id), side = 2 ** level;
  let i = 0, j = 0, turn = face & 1;
  for (let at = 1; at <= level; at++) {
    const child = Number((id >> BigInt(61 - 2 * at)) & 3n), ij = CHILD[turn][child];
    i = 2 * i + (ij >> 1);
    j = 2 * j + (ij & 1);
    turn ^= TURN[child];
  }
  const steps = level < 4 ? 16 : level < 8 ? 6 : 2, line = [];
  const corners = [[0, 0], [1, 0], [1, 1], [0, 1]];
  for (let edge = 0; edge < 4; edge++) {
    const [a, b] = [corners[edge], corners[(edge + 1) % 4]];
    for (let step = 0; step < steps; step++) {
      const t = step / steps;
      const s = (i + a[0] + t * (b[0] - a[0])) / side, r = (j + a[1] + t * (b[1] - a[1])) / side;
      const point = worldOf(FACES[face](onSphere(s), onSphere(r)));
      if (line.length) point[0] += Math.round(line[line.length - 1][0] - point[0]);
      line.push(point);
    }
  }
  line.push([line[0][0] + Math.round(line[line.length - 1][0] - line[0][0]), line[0][1]]);
  return line;
}

const LEVEL_KM = (level) => (6371 * Math.sqrt((4 * Math.PI) / 6)) / 2 ** level;
