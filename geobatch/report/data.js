// What the page carries: boxes of arrays (pack.py), and how elements are made. Text only ever becomes text.

const $ = (id) => document.getElementById(id);
const TYPES = { i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array, u8: BigUint64Array };
const NONE = -2147483648;
const SVG = new Set(["svg", "path", "line", "text", "circle", "title"]);

async function unpack(id) {
  const text = atob($(id).textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, [kind, at, size]] of Object.entries(header.arrays)) arrays[name] = new TYPES[kind](buffer, 8 + length + at, size);
  return { values: header.values, arrays };
}

// An element with attributes and children; a string among the children is a text node, never markup.
function el(tag, attributes, ...children) {
  const svg = SVG.has(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else made.setAttribute(name, value);
  }
  made.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return made;
}

// The children of an element, all anew.
function fill(target, ...children) {
  target.replaceChildren(...children.flat(2).filter((child) => child !== null && child !== undefined));
}

const NUMBER = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const count = (number) => NUMBER.format(number);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

function km(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 1) return `${Math.round(value * 1000)} m`;
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : count(value)} km`;
}

function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function bytesOf(value) {
  const units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) { value /= 1000; at++; }
  return `${at && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

const place = (latitude, longitude) => `${latitude.toFixed(5)}, ${longitude.toFixed(5)}`;

let images; // values and arrays of the page
let runs; // views of each run's arrays
let pictures = {};

function openRuns(box) {
  images = { ...box.values, ...box.arrays, size: box.values.ids.length };
  const places = (latitude, longitude) => ({ latitude, longitude, has: (row) => latitude[row] !== NONE });
  images.truth = places(images.tlat, images.tlon);
  images.hasTruth = images.tlat.some((value) => value !== NONE);
  images.allTruth = images.tlat.every((value) => value !== NONE);
  runs = images.runs.map((run, number) => {
    const own = (name) => images[`r${number}_${name}`];
    const view = { ...run, number, place: places(own("lat"), own("lon")) };
    for (const name of ["error", "status", "reason", "radius", "area", "cell", "score", "by"]) view[name] = own(name);
    view.sure = images.radii.map((radius) => own(`p${radius}`));
    view.hasSure = view.sure.some((column) => column && column.some((value) => value !== 255));
    view.hasArea = Boolean(view.area && view.area.some((value) => value !== 0n));
    view.whole = !view.status.includes(0);
    view.projected = projected(view.place);
    return view;
  });
  images.projected = projected(images.truth);
}

function projected(points) {
  const x = new Float64Array(points.latitude.length).fill(NaN), y = new Float64Array(x.length).fill(NaN);
  for (let row = 0; row < x.length; row++) {
    if (!points.has(row)) continue;
    x[row] = points.longitude[row] / 3.6e9 + 0.5;
    y[row] = mercator(points.latitude[row] / 1e7);
  }
  return { x, y };
}

// The object's URI is the image's name up to its first #, escapes undone, unless the page says otherwise.
function uriOf(row) {
  return images.uris[row] ?? images.ids[row].split("#", 1)[0].replaceAll("%23", "#").replaceAll("%25", "%");
}

const nameOf = (row) => images.ids[row].replace(/[/#]+$/, "").split(/[/#]/).pop() || images.ids[row];
