// Opens the page: data, controls, events.

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  readPalette();
  map.heat = null;
  if (images) draw();
}

function controls() {
  const colouring = Object.entries(colourings());
  optionsOf($("colour"), colouring.map(([name, one]) => [name, one.label]));
  state.colour = runs.length > 1 && colourings().change ? "change" : colouring[0][0];
  $("colour").value = state.colour;
  optionsOf($("radius"), images.radii.map((radius, at) => [at, `${count(radius)} km`]));
  $("radius").value = state.radius;
  optionsOf($("status"), [[0, "all"], [1, "placed"], [2, "rejected"]]);
  optionsOf($("reason"), images.reasons.map((reason, at) => [at, at ? reason : "all"]));
  optionsOf($("country"), images.countries.map((country, at) => [at, at ? country : "all"]).sort((a, b) => (a[0] === 0 ? -1 : b[0] === 0 ? 1 : a[1].localeCompare(b[1]))));
  optionsOf($("run"), runs.map((run, at) => [at, run.name]));
  const sure = runs.some((run) => run.hasSure), pictured = Object.keys(pictures).length > 0;
  const orders = [...(images.hasTruth ? ["worst", "nearest"] : []), ...(sure ? ["sure", "doubtful"] : []), ...(state.colour === "change" ? ["change", "loss"] : []), ...(pictured ? ["pictured"] : []), "row"];
  optionsOf($("order"), orders.map((name) => [name, ORDERS[name][0]]));
  state.order = orders[0];
  const drawn = images.hasTruth ? [["places", "places"], ["truths", "truths"], ["both", "both"]] : [];
  $("draw").hidden = !drawn.length;
  fill($("draw"), ...drawn.map(([value, label]) => el("label", {}, el("input", { type: "radio", name: "draw", value, checked: value === "places" ? "" : null, onchange: () => { state.draw = value; draw(); } }), label)));
  $("run-pick").hidden = runs.length < 2;
  $("colour-set").hidden = false;
  $("reason-box").hidden = images.reasons.length < 2;
  $("country-box").hidden = images.countries.length < 2;
  $("error-set").hidden = !images.hasTruth;
  $("confidence-set").hidden = !sure;
  $("lines-box").hidden = !images.hasTruth;
  $("areas-of").textContent = runs.some((run) => run.hasArea) ? "S2 areas that hold 90 %" : "S2 cells of the image";
  $("gallery-box").hidden = !images.gallery;
  nameLines();
}

function nameLines() {
  $("lines-to").textContent = state.colour === "change" ? "lines between the runs" : "lines to the truth";
}

function listen() {
  const on = (id, what, then) => $(id).addEventListener(what, then);
  on("theme", "click", () => theme(document.documentElement.dataset.theme !== "dark"));
  on("filters", "submit", (event) => event.preventDefault());
  for (const id of ["error-low", "error-high", "sure-low", "sure-high", "name"]) on(id, "input", filter);
  for (const id of ["status", "reason", "country"]) on(id, "change", filter);
  on("radius", "change", () => { state.radius = Number($("radius").value); filter(); });
  on("colour", "change", () => { state.colour = $("colour").value; state.off.clear(); nameLines(); filter(); });
  on("order", "change", () => { state.order = $("order").value; state.page = 0; drawList(); });
  on("run", "change", () => { state.run = Number($("run").value); drawTiles(); filter(); drawDetail(); });
  for (const id of ["lines", "areas", "gallery"]) on(id, "change", () => { state[id] = $(id).checked; draw(); });
  on("clear", "click", () => { $("filters").reset(); state.off.clear(); $("colour").value = state.colour; $("radius").value = state.radius; Object.assign(state, { draw: "places", lines: true, areas: false, gallery: false }); filter(); });
  on("previous", "click", () => { state.page--; drawList(true); });
  on("next", "click", () => { state.page++; drawList(true); });
  on("in", "click", () => zoom(2));
  on("out", "click", () => zoom(0.5));
  on("home", "click", home);
  new ResizeObserver(draw).observe($("map"));
  pointers();
  keys();
}

function pointers() {
  const canvas = $("map"), held = new Map();
  let moved = 0, apart = 0;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); held.set(event.pointerId, at(event)); moved = 0; canvas.classList.add("dragging"); });
  canvas.addEventListener("pointermove", (event) => {
    const point = at(event), before = held.get(event.pointerId);
    if (!before) return hover(...point);
    held.set(event.pointerId, point);
    if (held.size === 2) {
      const [a, b] = [...held.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (apart) zoom(now / apart, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      apart = now;
      moved = 9;
    } else {
      moved += Math.abs(point[0] - before[0]) + Math.abs(point[1] - before[1]);
      map.x -= (point[0] - before[0]) / map.k;
      map.y -= (point[1] - before[1]) / map.k;
      draw();
    }
  });
  const release = (event) => {
    if (!held.delete(event.pointerId)) return;
    apart = 0;
    if (!held.size) canvas.classList.remove("dragging");
    if (event.type === "pointerup" && moved < 5) press(...at(event));
  };
  for (const what of ["pointerup", "pointercancel"]) canvas.addEventListener(what, release);
  canvas.addEventListener("pointerleave", () => { $("hover").hidden = true; });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...at(event)); }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
}

function press(x, y) {
  const found = under(x, y);
  if (found?.bin) zoom(3, nearX(found.bin.x), screenY(found.bin.y));
  else choose(found ? found.row : -1);
}

function hover(x, y) {
  const found = under(x, y), box = $("hover");
  $("map").classList.toggle("over", Boolean(found));
  box.hidden = !found;
  if (!found) return;
  fill(box, ...(found.bin ? [`${count(found.bin.n)} images; click to zoom in`] : [picture(found.row), el("div", {}, nameOf(found.row)), el("div", { class: "faint" }, summary(found.row))].filter(Boolean)));
  box.style.left = `${Math.min(x + 14, Math.max(0, map.width - box.offsetWidth - 6))}px`;
  box.style.top = `${Math.max(4, Math.min(y + 14, map.height - box.offsetHeight - 6))}px`;
}

function keys() {
  const far = 0.12;
  const acts = {
    ArrowLeft: () => { map.x -= (far * map.width) / map.k; }, ArrowRight: () => { map.x += (far * map.width) / map.k; },
    ArrowUp: () => { map.y -= (far * map.height) / map.k; }, ArrowDown: () => { map.y += (far * map.height) / map.k; },
    "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), _: () => zoom(1 / 1.6), 0: home,
    n: () => step(1), p: () => step(-1), Escape: () => choose(-1),
  };
  $("map").addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
    draw();
  });
}

function fail(error) {
  const old = typeof DecompressionStream === "undefined";
  $("trouble").textContent = old ? "This browser is too old to unpack the page; open it in one of 2023 or later." : `This page could not be drawn: ${error}`;
  $("trouble").hidden = false;
  throw error;
}

async function open() {
  const wanted = window.matchMedia("(prefers-color-scheme: dark)");
  theme(wanted.matches);
  wanted.addEventListener("change", (event) => theme(event.matches));
  pictures = JSON.parse($("pictures").textContent);
  openRuns(await unpack("data"));
  map.outlines = $("coast") ? await unpack("coast") : null;
  $("title").textContent = images.title;
  $("note").textContent = images.note;
  $("sample").textContent = images.sample;
  fill($("warnings"), ...images.warnings.map((text) => el("p", { class: "warning" }, text)));
  home();
  controls();
  listen();
  drawTiles();
  drawFigures();
  drawFindings();
  drawRejections();
  drawAccount();
  drawFacts();
  drawDetail();
  filter();
  requestAnimationFrame(() => { document.documentElement.dataset.ready = "yes"; }); // after the map's first frame, asked for before
}

open().catch(fail);
