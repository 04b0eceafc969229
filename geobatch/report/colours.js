// What a colour means: classes of error, of stated probability, or of the change between two runs.

const palette = {};

function readPalette() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["sea", "land", "coast", "border", "grid", "heat", "mark", "ink", "faint", "none", "card", "plain", "c0", "c1", "c2", "c3", "c4", "c5"])
    palette[name] = style.getPropertyValue(`--${name}`).trim();
}

const state = { run: 0, colour: "plain", draw: "places", lines: true, areas: false, gallery: false, radius: 2, off: new Set(), chosen: -1, page: 0, order: "row" };

const currentRun = () => runs[state.run];
// The run that another is compared with, and that other: the first one and whatever is looked at.
const versus = () => [runs[0], runs[state.run || 1]];

function classOfError(error) {
  if (!(error >= 0)) return -1;
  let at = 0;
  while (at < images.radii.length && error > images.radii[at]) at++;
  return at;
}

// Colourings by name: what they are called, their classes, and `of`, which gives the class of a row, or -1: `rest` says of whom.
function colourings() {
  const radii = images.radii, unknown = images.allTruth ? "" : "truth not known, or ";
  const found = {};
  if (images.hasTruth)
    found.error = {
      label: "distance to the truth",
      labels: [`within ${count(radii[0])} km`, ...radii.slice(1).map((radius) => `within ${count(radius)} km`), `beyond ${count(radii.at(-1))} km`],
      names: ["c0", "c1", "c2", "c3", "c4", "c5"],
      rest: `${unknown}not placed`,
      of: () => { const error = currentRun().error; return (row) => classOfError(error[row]); },
    };
  if (runs.some((run) => run.hasSure))
    found.sure = {
      label: "stated probability",
      labels: ["90 % and more", "75 to 90 %", "50 to 75 %", "25 to 50 %", "below 25 %"],
      names: ["c0", "c1", "c2", "c3", "c5"],
      rest: "not stated, or not placed",
      of: () => {
        const sure = currentRun().sure[state.radius];
        return (row) => { const p = sure ? sure[row] : 255; return p === 255 ? -1 : p >= 229 ? 0 : p >= 191 ? 1 : p >= 127 ? 2 : p >= 64 ? 3 : 4; };
      },
    };
  if (runs.length > 1 && images.hasTruth)
    found.change = {
      label: "change of error",
      labels: ["half as far or nearer", "about as far", "twice as far or farther", "placed only now", "placed no longer"],
      names: ["c0", "faint", "c5", "c2", "c3"],
      rest: `${unknown}placed by neither${versus()[1].whole ? "" : ", or not in the later run"}`,
      of: () => {
        const [one, other] = versus();
        return (row) => {
          if (!other.status[row]) return -1; // it was never asked
          const [was, is] = [one.error[row], other.error[row]];
          if (!(was >= 0)) return is >= 0 ? 3 : -1;
          if (!(is >= 0)) return 4;
          return is < was && is <= was / 2 ? 0 : is > was && is >= was * 2 ? 2 : 1;
        };
      },
    };
  found.plain = { label: "one colour", labels: ["placed"], names: ["plain"], rest: "not placed", of: () => { const has = currentRun().place.has; return (row) => (has(row) ? 0 : -1); } };
  return found;
}
