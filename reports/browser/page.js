"use strict";
// The page asks for answers by name (reports/browser/board.py) and draws them with Plotly. Text from runs goes into the
// page as text nodes alone, and never into a chart.

const live = document.documentElement.dataset.live === "yes";
const LOOK_MS = 1000;
const WINDOWS = [1, 3, 5, 9, 15, 31, 61, 121]; // of the rolling mean, in points
const MOST_TIPS = 12;
const MOST_POINTS = 12000; // in a chart: with more, wider bins, so that a choice is redrawn at once
const TABS = { overview: "Overview", curves: "All curves", noise: "By noise level", samples: "Samples", configs: "Configs", table: "Table", notes: "Notes" };
const FIRST_ROW = ["val/fid", "pairs"];
const SECOND_ROW = [
  "train/loss", "train/mse_mean", "curvature/hutch_trace_mean", "curvature/ref_trace_mean", "curvature/neutral_trace_mean",
  "curvature/trace_ratio", "train/grad_global_L2", "final/fid",
];

let state = { version: 0, groups: [], runs: [], metrics: [], notes: [], protocols: {} };
let tab = "overview";
let sorted = { column: null, up: true };
const answers = {}; // name -> {version, runs: {key: value}}
const hidden = new Set(); // keys of runs
const met = new Set(); // runs that the page has seen
const chosen = new Set(["train/loss", "train/mse_mean", "train/grad_global_L2", "curvature/hutch_trace_mean"]);
const logarithmic = {}; // chart -> bool, once chosen

const $ = (id) => document.getElementById(id);

function element(name, text, properties) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== undefined) made.textContent = text;
  return made;
}

function shown(value) {
  return value === null || value === undefined ? "" : String(Number(value.toPrecision(5)));
}

// ---- answers -------------------------------------------------------------------------------------------

const waiting = {};
// Called by the scripts of an export.
function answered(name, found) { waiting[name](found); }

async function ask(name, since) {
  if (live) {
    const got = await fetch(`data/${name}.json?since=${since}`);
    if (!got.ok) throw new Error(`${name}: ${got.status}`);
    return got.json();
  }
  return new Promise((resolve, reject) => {
    waiting[name] = resolve;
    document.head.append(element("script", undefined, { src: `data/${name}.js`, onerror: reject }));
  });
}

async function latest(name) {
  const have = answers[name] ?? { version: 0, runs: {} };
  if (have.version < state.version) {
    const found = await ask(name, have.version);
    answers[name] = { version: found.version, runs: { ...have.runs, ...found.runs } };
  }
  return (answers[name] ?? have).runs;
}

// ---- curves --------------------------------------------------------------------------------------------

// A thinned curve in wider bins, of which the narrower ones are parts.
function rebinned(curve, width) {
  if ((curve.width ?? 0) >= width) return curve;
  const bins = new Map();
  curve.x.forEach((x, i) => {
    const bin = Math.floor(x / width), n = curve.n?.[i] ?? 1;
    const b = bins.get(bin) ?? { n: 0, x: 0, y: 0, lo: Infinity, hi: -Infinity };
    b.n += n; b.x += n * x; b.y += n * curve.y[i];
    b.lo = Math.min(b.lo, curve.lo?.[i] ?? curve.y[i]);
    b.hi = Math.max(b.hi, curve.hi?.[i] ?? curve.y[i]);
    bins.set(bin, b);
  });
  const all = [...bins.values()];
  return { width, n: all.map((b) => b.n), x: all.map((b) => Math.round(b.x / b.n)), y: all.map((b) => b.y / b.n), lo: all.map((b) => b.lo), hi: all.map((b) => b.hi) };
}

// The width of bins, a power of two, with which curves together have no more than MOST_POINTS; 0 if they are as they are.
function binWidth(curves) {
  const points = curves.reduce((sum, curve) => sum + curve.x.length, 0);
  if (points <= MOST_POINTS) return 0;
  const longest = Math.max(...curves.map((curve) => curve.x.at(-1)));
  return 2 ** Math.ceil(Math.log2((longest * curves.length) / MOST_POINTS));
}

// The centred rolling mean over `window` points, over fewer at the ends.
function smooth(y, window) {
  if (window < 2) return y;
  const sums = [0];
  for (const value of y) sums.push(sums.at(-1) + value);
  const reach = (window - 1) / 2;
  return y.map((_, i) => {
    const from = Math.max(0, i - reach), to = Math.min(y.length, i + reach + 1);
    return (sums[to] - sums[from]) / (to - from);
  });
}

// A group's runs that its mean is over: the finished ones, or all while none is. A young run would cut the mean short.
function settled(runs) {
  const finished = runs.filter((run) => run.finished);
  return finished.length ? finished : runs;
}

function finishedFirst(runs) {
  return [...runs].sort((a, b) => b.finished - a.finished);
}

// A group's curves -> what is drawn: the mean over the first `count` of them at the steps that these have, and each
// run's own line. `least`: bins at least this wide.
function gathered(curves, count, window, least) {
  const width = Math.max(least, ...curves.map((curve) => curve.width ?? 0));
  const own = curves.map((curve) => {
    const binned = rebinned(curve, width);
    return { ...binned, smooth: smooth(binned.y, window) };
  });
  const at = (x) => (width ? Math.floor(x / width) : x);
  const counted = own.slice(0, count);
  const places = counted.map((curve) => new Map(curve.x.map((x, i) => [at(x), i])));
  const mean = { x: [], y: [], about: [] };
  own[0].x.forEach((x, i) => {
    const where = places.map((place) => place.get(at(x)));
    if (where.includes(undefined)) return;
    const values = counted.map((curve, run) => curve.smooth[where[run]]);
    const middle = values.reduce((a, b) => a + b, 0) / values.length;
    mean.x.push(x);
    mean.y.push(middle);
    mean.about.push({ values, e: count === 1 ? own[0].e?.[i] : undefined, n: own[0].n?.[i] });
  });
  return { own, mean };
}

// Half the 95 % interval of the mean over seeds (Student's t), or undefined for one seed.
function overSeeds(values) {
  if (values.length < 2) return undefined;
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1);
  return state.t95[values.length - 1] * Math.sqrt(variance / values.length);
}

function intervalText(metric, value, about) {
  const parts = [];
  const half = overSeeds(about.values);
  if (half !== undefined) {
    parts.push(`mean of ${about.values.length} seeds, ${shown(Math.min(...about.values))} to ${shown(Math.max(...about.values))}`);
    parts.push(`95 % interval over seeds ${shown(value - half)} to ${shown(value + half)}`);
  } else if (about.e) {
    const what = metric.startsWith("curvature") ? "probes" : "samples";
    parts.push(`95 % interval over ${what} ${shown(value - state.z95 * about.e)} to ${shown(value + state.z95 * about.e)}`);
  }
  if (about.n > 1) parts.push(`mean of ${about.n} rows`);
  return parts.length ? ` (${parts.join("; ")})` : "";
}

// ---- which runs ----------------------------------------------------------------------------------------

function scored(metric) {
  return metric.startsWith("val/fid") || metric === "pairs";
}

// What is said of runs that are ticked, but not on the axes of FID.
function elsewhere() {
  const count = state.runs.filter((run) => !hidden.has(run.key) && run.protocol && run.protocol !== $("protocol").value).length;
  return count ? [`${count} run${count === 1 ? "" : "s"} of another FID protocol ${count === 1 ? "is" : "are"} not on this axis: choose it on the left`] : [];
}

// Group number -> its runs that are shown and have `values`.
function runsByGroup(values, metric) {
  const found = new Map();
  for (const run of state.runs) {
    if (hidden.has(run.key) || !values[run.key]) continue;
    if (scored(metric) && run.protocol !== $("protocol").value) continue;
    found.set(run.group, [...(found.get(run.group) ?? []), run]);
  }
  return [...found].sort((a, b) => a[0] - b[0]);
}

// ---- charts --------------------------------------------------------------------------------------------

const CONFIG = { displaylogo: false, responsive: true, doubleClick: "reset", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

function layout(chart, x, y) {
  const axis = { gridcolor: "#e8e8e8", zeroline: false, exponentformat: "none", separatethousands: true, tickfont: { size: 12 }, title: { font: { size: 13 }, standoff: 8 } };
  return {
    margin: { l: 60, r: 12, t: 6, b: 40 }, showlegend: false, hovermode: "closest", hoverdistance: 40, dragmode: "zoom",
    plot_bgcolor: "#fff", paper_bgcolor: "#fff", uirevision: `${chart}${x.type}${y.type}`, font: { family: "system-ui, sans-serif" },
    xaxis: { ...axis, ...x, title: { ...axis.title, ...x.title } }, yaxis: { ...axis, ...y, title: { ...axis.title, ...y.title } },
  };
}

// The box of a chart inside `place`: made once, then kept, so that a zoom stays.
function boxOf(place, chart, title) {
  const id = `chart-${place.id}-${chart}`;
  let box = $(id);
  if (!box) {
    box = element("div", undefined, { id, className: "chart" });
    const top = element("div", undefined, { className: "top" });
    const log = element("input", undefined, { type: "checkbox" });
    log.onchange = () => { logarithmic[chart] = log.checked; draw(); };
    const label = element("label");
    label.append(log, " log");
    top.append(element("h3"), label);
    box.append(top, element("div", undefined, { className: "plot" }), element("p", undefined, { className: "said" }));
    place.append(box);
  }
  box.querySelector("h3").textContent = title;
  return { box, plot: box.querySelector(".plot"), log: box.querySelector("input"), said: box.querySelector(".said") };
}

// Charts far below are drawn when they come near.
const late = new Map();
function near(box) {
  const { top, bottom } = box.getBoundingClientRect();
  return top < innerHeight + 100 && bottom > -100;
}

addEventListener("scroll", () => {
  for (const [box, drawIt] of late) if (box.isConnected && near(box) && late.delete(box)) drawIt().catch(away);
}, { passive: true });

function look(group, thick) {
  const { colour, dash } = state.groups[group];
  return { color: colour, dash, width: thick ? 2.2 : 1 };
}

function marks(group, size) {
  return { symbol: state.groups[group].symbol, size, color: state.groups[group].colour };
}

// The range of an axis in words: 1, 2 and 5 of each decade of a log axis.
function ticks(type, ys) {
  const there = ys.filter((y) => y > 0);
  const low = Math.min(...there), high = Math.max(...there);
  if (type !== "log" || !(high > 5 * low)) return {};
  const values = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++) {
    for (const digit of high > 1e4 * low ? [1] : [1, 2, 5]) values.push(Number(`${digit}e${decade}`));
  }
  return { tickmode: "array", tickvals: values, ticktext: values.map(String) };
}

// Whether values are drawn on a log axis unless the reader says otherwise: a loss over more than a decade.
function wide(metric, lines) {
  if (!metric.startsWith("train/")) return false;
  let low = Infinity, high = -Infinity;
  for (const line of lines) for (const y of line.y) { low = Math.min(low, y); high = Math.max(high, y); }
  return low > 0 && high > 10 * low;
}

async function drawCurve(place, metric) {
  const known = state.metrics.find((m) => m.key === metric);
  const { box, plot, log, said } = boxOf(place, known.id, known.label); // all boxes first: they share the width
  await null;
  if (!near(box)) return void late.set(box, () => drawCurve(place, metric));
  const values = await latest(known.id);
  const groups = runsByGroup(values, metric);
  const window = WINDOWS[$("smoothing").value];
  const logx = $("logx").checked;
  const few = (curve) => curve.x.length < 30; // milestones: points, not smoothed
  const sets = groups.map(([group, runs]) => ({ group, count: settled(runs).length, curves: finishedFirst(runs).map((run) => values[run.key]) }));
  const least = binWidth(sets.flatMap(({ curves }) => curves));
  const lines = sets.map(({ group, curves, count }) => ({ group, ...gathered(curves, count, curves.every(few) ? 1 : window, curves.every(few) ? 0 : least) }));
  const data = [];
  for (const { group, own, mean } of lines) {
    const faint = { x: [], y: [] };
    if ($("seeds").checked && (own.length > 1 || window > 1 || own[0].lo)) {
      for (const curve of own) {
        curve.x.forEach((x, i) => {
          if (own.length === 1 && curve.lo) faint.x.push(x, x), faint.y.push(curve.lo[i], curve.hi[i]);
          else faint.x.push(x), faint.y.push(own.length > 1 ? curve.smooth[i] : curve.y[i]);
        });
        faint.x.push(null);
        faint.y.push(null);
      }
      data.push({ ...faint, mode: "lines", line: { ...look(group, false), dash: "solid" }, opacity: 0.4, hoverinfo: "skip" });
    }
    const points = mean.x.length < 30;
    data.push({
      x: mean.x, y: mean.y, mode: points ? "lines+markers" : "lines", line: look(group, true), marker: marks(group, 7), hoverinfo: "none", group,
      error_y: points && mean.about.some((a) => a.e) ? { array: mean.about.map((a) => state.z95 * (a.e ?? 0)), thickness: 1, width: 3 } : undefined,
    });
  }
  const shapes = metric === "val/fid" ? await levels(groups, lines, said) : [];
  const type = logarithmic[known.id] ?? wide(metric, lines.map((line) => line.mean)) ? "log" : "linear";
  log.checked = type === "log";
  const across = { title: { text: "step" }, type: logx ? "log" : "linear", ...ticks(logx ? "log" : "", lines.flatMap((line) => line.mean.x)) };
  const shape = layout(known.id, across, { type, ...ticks(type, lines.flatMap((line) => line.mean.y)) });
  await Plotly.react(plot, data, { ...shape, shapes: shapes.map((s) => s.line), annotations: shapes.map((s) => note(s, type)) }, CONFIG);
  if (!groups.length) said.textContent = "None of the runs that are shown has it.";
  else if (metric !== "val/fid") said.textContent = smoothingText(lines, window);
  hovered(plot, (x) => [`step ${Math.round(x)}`, ...nearest(lines, x).map(([line, i]) => [
    line.group, `${shown(line.mean.y[i])}${intervalText(metric, line.mean.y[i], line.mean.about[i])}`, line.mean.x[i],
  ])]);
}

function smoothingText(lines, window) {
  const bins = lines.some((line) => line.own.some((curve) => curve.n));
  const parts = [];
  if (window > 1 && lines.some((line) => line.mean.x.length >= 30)) parts.push(`lines: rolling mean of ${window} points`);
  if (bins) parts.push("points: means of several rows; faint for one seed: their lowest and highest");
  return parts.join("; ");
}

// Horizontal lines of what real images and what noise score, with their texts.
async function levels(groups, lines, said) {
  const found = [];
  const top = Math.max(...lines.flatMap((line) => line.mean.y));
  const outside = [];
  for (const [metric, words, dash] of [["val/fid_floor", "as many real images", "dot"], ["val/fid_ceiling", "uniform noise", "dashdot"]]) {
    const known = state.metrics.find((m) => m.key === metric);
    if (!known) continue;
    const values = await latest(known.id);
    const ends = groups.flatMap(([, runs]) => runs).filter((run) => values[run.key]).map((run) => values[run.key].y.at(-1));
    for (const y of new Set(ends)) {
      if (y > 2 * top) { outside.push(`${words} would score ${shown(y)}, above the chart`); continue; }
      found.push({ words: `${words}: ${shown(y)}`, y, line: { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: "#000", width: 1, dash } } });
    }
  }
  const bars = lines.some((line) => line.mean.about.some((a) => a.e)) ? ["bars: 95 % interval over samples"] : [];
  said.textContent = [...bars, ...outside, ...elsewhere()].join("; ");
  return found;
}

function note(level, type) {
  return { text: level.words, xref: "paper", x: 1, xanchor: "right", y: type === "log" ? Math.log10(level.y) : level.y, yanchor: "bottom", showarrow: false, font: { size: 11 } };
}

async function drawPairs(place) {
  const { box, plot, log, said } = boxOf(place, "pairs", "Hessian trace against FID");
  const all = await latest("pairs");
  const top = box.querySelector(".top");
  let pick = top.querySelector("select");
  if (!pick) {
    pick = element("select", undefined, { onchange: draw });
    pick.setAttribute("aria-label", "which trace");
    state.traces.forEach(({ key, label }) => pick.append(element("option", label, { value: key })));
    top.insertBefore(pick, top.lastChild);
  }
  const trace = pick.value;
  const values = Object.fromEntries(Object.entries(all).filter(([, p]) => p?.[trace]).map(([key, p]) => [key, p[trace]]));
  const groups = runsByGroup(values, "pairs");
  const lines = groups.map(([group, runs]) => {
    const own = runs.map((run) => values[run.key]);
    const counted = settled(runs).map((run) => values[run.key]);
    const steps = counted[0].step.filter((step) => counted.every((p) => p.step.includes(step)));
    const at = (name) => steps.map((step) => counted.map((p) => p[name][p.step.indexOf(step)]));
    const middle = (list) => list.map((v) => v.reduce((a, b) => a + b, 0) / v.length);
    return { group, own, steps, xs: at("x"), ys: at("y"), x: middle(at("x")), y: middle(at("y")), ex: counted.length === 1 ? at("ex").flat() : [], ey: counted.length === 1 ? at("ey").flat() : [] };
  });
  const data = [];
  const bars = (half) => (half.some((e) => e) ? { array: half.map((e) => state.z95 * (e ?? 0)), thickness: 1, width: 2 } : undefined);
  for (const line of lines) {
    if ($("seeds").checked && line.own.length > 1) {
      data.push({ x: line.own.flatMap((p) => [...p.x, null]), y: line.own.flatMap((p) => [...p.y, null]), mode: "lines", line: { ...look(line.group, false), dash: "solid" }, opacity: 0.4, hoverinfo: "skip" });
    }
    const last = line.steps.length - 1;
    data.push({
      x: line.x, y: line.y, mode: "lines+markers+text", line: look(line.group, true), marker: marks(line.group, 8), hoverinfo: "none", group: line.group,
      text: line.steps.map((step, i) => (lines.length < 5 && (i === last || i === 0) ? `${step}` : "")), textposition: "top right", textfont: { color: state.groups[line.group].colour, size: 12 },
      error_x: bars(line.ex), error_y: bars(line.ey),
    });
  }
  const type = logarithmic.pairs ? "log" : "linear";
  log.checked = type === "log";
  const axis = (text, of) => ({ title: { text }, type, ...ticks(type, lines.flatMap((line) => line[of])) });
  const fid = state.metrics.find((m) => m.key === "val/fid")?.label ?? "FID";
  await Plotly.react(plot, data, layout(`pairs${trace}`, axis(pick.selectedOptions[0].textContent, "x"), axis(fid, "y")), CONFIG);
  const differ = trace === "curvature/hutch_trace_mean" ? " Arms with different weightings train different functions: compare the unweighted trace too." : "";
  said.textContent = groups.length ? `${elsewhere().map((line) => `${line}. `).join("")}Milestones in order of step (${lines.length < 5 ? "numbers: first and last step; " : ""}bars, for one seed: 95 % interval over probes and samples).${differ}` : "None of the runs that are shown has this trace at a milestone with a FID.";
  hovered(plot, (_, point) => {
    const line = lines.find((one) => one.group === point.data.group);
    const i = point.pointNumber;
    const about = (values, e) => ({ values, e: values.length === 1 ? e : undefined });
    return [`step ${line.steps[i]}`, [line.group, `trace ${shown(line.x[i])}${intervalText("curvature", line.x[i], about(line.xs[i], line.ex[i]))}`], [line.group, `FID ${shown(line.y[i])}${intervalText("val/fid", line.y[i], about(line.ys[i], line.ey[i]))}`]];
  });
}

async function drawNoise() {
  const bins = state.noise.filter(({ id }) => state.metrics.some((m) => m.id === id));
  const place = $("noise-chart");
  const { plot, log, said } = boxOf(place, "noise", "Hessian trace by noise level, neutral loss");
  const curves = await Promise.all(bins.map(({ id }) => latest(id)));
  const steps = [...new Set(state.runs.filter((run) => !hidden.has(run.key)).flatMap((run) => curves[0]?.[run.key]?.x ?? []))].sort((a, b) => a - b);
  const slider = $("noise-step");
  slide(slider, steps.length);
  const step = steps[slider.value];
  $("noise-at").textContent = step ?? "";
  const values = Object.fromEntries(state.runs.map((run) => [run.key, curves.length && curves.every((c) => c[run.key]?.x.includes(step))]));
  const lines = runsByGroup(values, "noise").map(([group, runs]) => {
    const at = (name) => bins.map((_, b) => settled(runs).map((run) => { const c = curves[b][run.key]; return c[name]?.[c.x.indexOf(step)]; }));
    const ys = at("y");
    return { group, ys, es: at("e"), x: bins.map((bin) => bin.middle), y: ys.map((v) => v.reduce((a, b) => a + b, 0) / v.length) };
  });
  const data = lines.map((line) => ({
    x: line.x, y: line.y, mode: "lines+markers", line: look(line.group, true), marker: marks(line.group, 8), hoverinfo: "none", group: line.group,
    error_y: line.es.some((e) => e[0] && e.length === 1) ? { array: line.es.map((e) => state.z95 * (e[0] ?? 0)), thickness: 1, width: 3 } : undefined,
  }));
  const type = logarithmic.noise ? "log" : "linear";
  log.checked = type === "log";
  const shape = layout("noise", { title: { text: "log SNR (left: mostly noise, right: mostly image)" }, type: "linear" }, { title: { text: "Hessian trace" }, type, ...ticks(type, lines.flatMap((line) => line.y)) });
  plot.hidden = !lines.length;
  await Plotly.react(plot, data, shape, CONFIG);
  said.textContent = lines.length ? "Bars: 95 % interval over probes (one seed)." : "None of the runs that are shown logged the trace by noise level (curvature/trace_by_noise/...).";
  hovered(plot, (_, point) => {
    const line = lines.find((one) => one.group === point.data.group), i = point.pointNumber;
    return [`step ${step}, log SNR ${line.x[i] - 1} to ${line.x[i] + 1}`, [line.group, `${shown(line.y[i])}${intervalText("curvature", line.y[i], { values: line.ys[i], e: line.es[i].length === 1 ? line.es[i][0] : undefined })}`]];
  });
}

// ---- the tip beside the pointer ------------------------------------------------------------------------

// Each line's point that is nearest to x, nearest lines first if they are many.
function nearest(lines, x) {
  const found = [];
  for (const line of lines) {
    const xs = line.mean.x;
    if (!xs.length) continue;
    let i = 0;
    for (let j = 1; j < xs.length; j++) if (Math.abs(xs[j] - x) < Math.abs(xs[i] - x)) i = j;
    found.push([line, i]);
  }
  return found;
}

// `rows(x, point)`: a heading, then [group, text, step] for each line of the tip.
function hovered(plot, rows) {
  plot.removeAllListeners?.("plotly_hover");
  plot.removeAllListeners?.("plotly_unhover");
  plot.on("plotly_hover", ({ points, event }) => {
    const [heading, ...lines] = rows(points[0].x, points[0]);
    const own = points[0].data.group;
    const first = lines.length > MOST_TIPS ? lines.filter(([group]) => group === own) : lines;
    const tip = $("tip");
    tip.replaceChildren(element("b", heading));
    for (const [group, text, step] of first) {
      const line = element("div");
      const mark = element("span", "■ ");
      mark.style.color = state.groups[group].colour;
      const at = step !== undefined && `step ${step}` !== heading ? `, at step ${step}` : "";
      line.append(mark, `${state.groups[group].name}: ${text}${at}`);
      tip.append(line);
    }
    if (lines.length > first.length) tip.append(element("div", `and ${lines.length - first.length} more arms`));
    tip.hidden = false;
    const right = event.clientX > innerWidth / 2;
    Object.assign(tip.style, { left: right ? "" : `${event.clientX + 14}px`, right: right ? `${innerWidth - event.clientX + 14}px` : "", top: `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px` });
  });
  plot.on("plotly_unhover", () => { $("tip").hidden = true; });
}

// ---- tabs ----------------------------------------------------------------------------------------------

async function drawOverview() {
  const place = $("overview");
  if (!place.firstChild) {
    place.append(element("div", undefined, { id: "overview-first", className: "charts first" }), element("div", undefined, { id: "overview-more", className: "charts" }));
  }
  const logged = new Set(state.metrics.map((m) => m.key));
  const there = (row) => row.filter((name) => (name === "pairs" ? logged.has("val/fid") : logged.has(name)));
  await Promise.all([
    ...there(FIRST_ROW).map((name) => (name === "pairs" ? drawPairs($("overview-first")) : drawCurve($("overview-first"), name))),
    ...there(SECOND_ROW).map((name) => drawCurve($("overview-more"), name)),
  ]);
}

async function drawChosen() {
  const place = $("chosen");
  const wanted = state.metrics.filter((m) => chosen.has(m.key));
  const list = $("metrics");
  const text = $("find").value.toLowerCase();
  list.replaceChildren(...state.metrics.filter((m) => `${m.key} ${m.label}`.toLowerCase().includes(text)).map((m) => {
    const tick = element("input", undefined, { type: "checkbox", checked: chosen.has(m.key) });
    tick.onchange = () => { if (tick.checked) chosen.add(m.key); else chosen.delete(m.key); draw(); };
    const label = element("label", undefined, { title: m.label });
    label.append(tick, ` ${m.key}`);
    return label;
  }));
  $("unlisted").textContent = state.unlisted ? `Left out: up to ${state.unlisted} metrics of single timesteps in a run (mse_per_t/...).` : "";
  for (const box of [...place.children]) if (!wanted.some((m) => box.id.endsWith(m.id))) box.remove();
  await Promise.all(wanted.map((m) => drawCurve(place, m.key)));
}

function slide(slider, count) {
  const atEnd = slider.value === slider.max; // a slider at its end stays there when milestones are added
  slider.max = Math.max(0, count - 1);
  if (atEnd) slider.value = slider.max;
}

// Options for the runs that pass; keeps what is chosen, else chooses number `place`.
function pickRun(select, runs, place) {
  const kept = select.value;
  if ([...select.options].map((o) => o.value).join() !== runs.map((run) => run.key).join()) {
    select.replaceChildren(...runs.map((run) => element("option", `${state.groups[run.group].name}, ${run.name}`, { value: run.key })));
    select.value = runs.some((run) => run.key === kept) ? kept : (runs[Math.min(place, runs.length - 1)]?.key ?? "");
  }
  return state.runs.find((run) => run.key === select.value);
}

// The first run of each group before the second ones: two arms are side by side at first.
function armsFirst(runs) {
  const rank = new Map();
  const count = {};
  for (const run of runs) { count[run.group] = (count[run.group] ?? -1) + 1; rank.set(run, [count[run.group], run.group]); }
  return [...runs].sort((a, b) => rank.get(a)[0] - rank.get(b)[0] || rank.get(a)[1] - rank.get(b)[1]);
}

function drawSamples() {
  const runs = armsFirst(state.runs.filter((run) => run.grids.length && !hidden.has(run.key)));
  const figures = [...document.querySelectorAll("#samples figure")];
  const pair = figures.map((figure, i) => pickRun(figure.querySelector("select"), runs, i));
  const steps = [...new Set(pair.flatMap((run) => run?.grids ?? []))].sort((a, b) => a - b);
  const slider = $("grid-step");
  slide(slider, steps.length);
  const step = steps[slider.value];
  $("grid-at").textContent = step ?? "";
  figures.forEach((figure, i) => {
    const run = pair[i], has = run?.grids.includes(step);
    const image = figure.querySelector("img");
    const address = has ? `grids/${run.key}-${step}.png` : "";
    if (image.getAttribute("src") !== address) image.setAttribute("src", address);
    image.hidden = !has;
    image.onerror = () => { figure.querySelector("figcaption").textContent = `The picture of step ${step} cannot be read.`; };
    figure.querySelector("figcaption").textContent = has ? `${run.name}, step ${step}` : run ? `${run.name} has no grid at step ${step}` : "No run that is shown has sample grids.";
  });
}

async function drawConfigs() {
  const configs = await latest("configs");
  const [first, second] = [...document.querySelectorAll("#configs select")].map((select, i) => pickRun(select, armsFirst(state.runs), i));
  const table = document.querySelector("#configs table");
  if (!first) return;
  const [a, b] = [configs[first.key], configs[second.key]];
  const rows = [...new Set([...Object.keys(a), ...Object.keys(b)])].sort().map((key) => ({
    key, values: [a[key]?.[0] ?? "(not set)", b[key]?.[0] ?? "(not set)"], label: (a[key] ?? b[key])[1],
  }));
  const differing = rows.filter((row) => row.values[0] !== row.values[1]);
  const kept = rows.filter((row) => ($("equal").checked || differing.includes(row)) && ($("labels").checked || !row.label));
  $("config-said").textContent = `Of ${rows.filter((row) => !row.label).length} keys that change the training, these differ: ${differing.filter((row) => !row.label).length}.`;
  const head = element("tr");
  head.append(...["key", first.name, second.name].map((text) => element("th", text)));
  table.replaceChildren(head, ...kept.map((row) => {
    const line = element("tr", undefined, { className: differing.includes(row) && $("equal").checked ? "differs" : "" });
    line.append(...[row.key, ...row.values].map((text) => element("td", text)));
    return line;
  }));
}

function drawTable() {
  const columns = [
    ["", () => ""], ["arm", (run) => state.groups[run.group].name], ["seed", (run) => run.seed], ["run", (run) => run.id], ["state", stateOf],
    ...state.swept.map((key) => [key, (run) => (isNaN(Number(run.swept[key])) ? run.swept[key] : Number(run.swept[key]))]),
    ...state.columns.map((key) => [key, (run) => run.numbers[key]]),
  ];
  const [, value] = columns.find(([name]) => name === sorted.column) ?? [];
  const runs = [...state.runs];
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  const none = (v) => v === undefined || v === null;
  if (value) runs.sort((a, b) => none(value(a)) - none(value(b)) || (sorted.up ? 1 : -1) * order(value(a), value(b)));
  const head = element("tr");
  for (const [name] of columns) {
    const cell = element("th");
    for (const part of name.split(/(?<=[/_.])/)) cell.append(part, element("wbr")); // where a long name may break
    if (name && name === sorted.column) cell.append(sorted.up ? " ▲" : " ▼");
    cell.onclick = () => { sorted = { column: name, up: sorted.column === name ? !sorted.up : true }; drawTable(); };
    head.append(cell);
  }
  document.querySelector("#table table").replaceChildren(head, ...runs.map((run) => {
    const line = element("tr");
    const tick = element("input", undefined, { type: "checkbox", checked: !hidden.has(run.key) });
    tick.onchange = () => toggle([run], tick.checked);
    const cell = element("td");
    cell.append(tick);
    line.append(cell, ...columns.slice(1).map(([, of]) => {
      const v = of(run);
      return element("td", typeof v === "number" ? shown(v) : (v ?? ""), { className: typeof v === "number" ? "number" : "" });
    }));
    return line;
  }));
}

function drawNotes() {
  const lines = notes();
  const list = element("ul");
  list.append(...lines.map((line) => element("li", line)));
  $("notes").replaceChildren(lines.length ? list : element("p", "Nothing is missing, left out or damaged."));
}

function notes() {
  return [...state.notes, ...state.runs.flatMap((run) => run.notes.map((line) => `${run.name}: ${line}${training(run) ? " (the run is being written; this may pass)" : ""}.`))];
}

// ---- around the charts ---------------------------------------------------------------------------------

function training(run) {
  return live && !run.finished && state.now - run.changed < 120;
}

function stateOf(run) {
  if (run.finished) return "finished";
  return `${training(run) ? "training" : "unfinished"}, step ${run.step}${run.planned ? ` of ${run.planned}` : ""}`;
}

function drawStatus() {
  if (!state.version) return void ($("status").textContent = "The first runs are being read.");
  const arms = new Set(state.runs.map((run) => run.experiment ?? run.group)).size;
  const now = state.runs.filter(training);
  const progress = state.read < state.total ? `${state.read} of ${state.total} runs read from ` : `${state.runs.length} run${state.runs.length === 1 ? "" : "s"} of ${arms} arm${arms === 1 ? "" : "s"} in `;
  const growing = now.length ? `, ${now.length} training (${now.slice(0, 3).map((run) => `${state.groups[run.group].experiment}${run.seed === null ? "" : ` seed ${run.seed}`}: step ${run.step}${run.planned ? ` of ${run.planned}` : ""}`).join("; ")}${now.length > 3 ? "; ..." : ""})` : "";
  $("status").className = "";
  $("status").textContent = `${progress}${state.source}${growing}. ${live ? "Shown as they grow." : `As of ${new Date(state.now * 1000).toLocaleString()}.`}`;
}

function drawTabs() {
  $("tabs").replaceChildren(...Object.entries(TABS).map(([id, text]) => {
    const count = id === "notes" ? notes().length : 0;
    const button = element("button", count ? `${text} (${count})` : text, { onclick: () => { tab = id; drawTabs(); draw(); } });
    button.setAttribute("aria-selected", id === tab);
    return button;
  }));
  for (const id of Object.keys(TABS)) $(id).hidden = id !== tab;
}

function swatch(group) {
  const names = { width: 26, height: 12 };
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries(names)) picture.setAttribute(name, value);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const dashes = { solid: "", dash: "6,3", dot: "2,3", dashdot: "6,3,2,3" }[group.dash] ?? group.dash.replaceAll("px", "");
  for (const [name, value] of Object.entries({ x1: 0, x2: 26, y1: 6, y2: 6, stroke: group.colour, "stroke-width": 3, "stroke-dasharray": dashes })) line.setAttribute(name, value);
  picture.append(line);
  return picture;
}

function drawGroups() {
  const text = $("filter").value.toLowerCase();
  const open = new Set([...document.querySelectorAll("#groups details[open]")].map((d) => d.dataset.group));
  $("groups").replaceChildren(...state.groups.map((group, number) => {
    const runs = state.runs.filter((run) => run.group === number);
    const box = element("div", undefined, { className: "group", hidden: !`${group.name} ${runs.map((run) => run.name).join(" ")}`.toLowerCase().includes(text) });
    const on = runs.filter((run) => !hidden.has(run.key)).length;
    const tick = element("input", undefined, { type: "checkbox", checked: on > 0, indeterminate: on > 0 && on < runs.length });
    tick.onchange = () => toggle(runs, tick.checked);
    const label = element("label");
    label.append(tick, swatch(group), element("span", group.name));
    const seeds = element("details", undefined, { open: open.has(String(number)) });
    seeds.dataset.group = number;
    seeds.append(element("summary", `${runs.length} run${runs.length === 1 ? "" : "s"}`), ...runs.map((run) => {
      const own = element("input", undefined, { type: "checkbox", checked: !hidden.has(run.key) });
      own.onchange = () => toggle([run], own.checked);
      const line = element("label", undefined, { title: run.id });
      line.append(own, ` ${run.seed === null ? run.id : `seed ${run.seed}`}, ${stateOf(run)}`);
      return line;
    }));
    box.append(label, seeds);
    return box;
  }));
}

function toggle(runs, on) {
  for (const run of runs) { if (on) hidden.delete(run.key); else hidden.add(run.key); }
  drawGroups();
  draw();
}

function drawProtocols() {
  const counts = {};
  for (const run of state.runs) if (run.protocol) counts[run.protocol] = (counts[run.protocol] ?? 0) + (run.shown ? 1000 : 1);
  const names = Object.keys(counts).sort((a, b) => counts[b] - counts[a]);
  const select = $("protocol"), kept = select.value;
  select.replaceChildren(...names.map((name) => element("option", state.protocols[name], { value: name })));
  if (names.includes(kept)) select.value = kept;
  $("protocols").hidden = names.length < 2;
}

const DRAW = { overview: drawOverview, curves: drawChosen, noise: drawNoise, samples: drawSamples, configs: drawConfigs, table: drawTable, notes: drawNotes };
let drawing = Promise.resolve();

// One drawing after another; of several that wait, the last.
let wanted = 0;
function draw() {
  const mine = ++wanted;
  drawing = drawing.then(async () => {
    if (mine !== wanted) return;
    const begun = performance.now();
    $("window").textContent = WINDOWS[$("smoothing").value] === 1 ? "none" : `mean of ${WINDOWS[$("smoothing").value]} points`;
    late.clear();
    await DRAW[tab]();
    document.body.dataset.drawn = state.version; // for tests and benchmarks
    document.body.dataset.took = performance.now() - begun;
  }).catch(away);
  return drawing;
}

function away(error) {
  console.error(error);
  $("status").className = "away";
  $("status").textContent = live
    ? "The dashboard's server does not answer: was it stopped? What is shown is what it last said."
    : "A file of this export cannot be read.";
}

async function lookAgain() {
  try {
    const found = await ask("state", state.version);
    if (found.groups) {
      state = found;
      for (const run of state.runs) {
        if (!met.has(run.key) && !run.shown) hidden.add(run.key);
        met.add(run.key);
      }
      $("title").textContent = document.title = state.title;
      $("question").textContent = state.question;
      $("first").hidden = state.runs.every((run) => run.shown);
      drawProtocols();
      drawGroups();
      drawTabs();
      draw();
    } else {
      state.now = found.now;
    }
    drawStatus();
  } catch (error) {
    away(error);
  }
  if (live) setTimeout(lookAgain, LOOK_MS);
}

$("all").onclick = () => toggle(state.runs, true);
$("none").onclick = () => toggle(state.runs, false);
$("first").onclick = () => { toggle(state.runs, false); toggle(state.runs.filter((run) => run.shown), true); };
$("filter").oninput = drawGroups;
$("find").oninput = () => draw();
for (const id of ["smoothing", "logx", "seeds", "protocol", "noise-step", "grid-step", "equal", "labels"]) $(id).addEventListener("input", draw);
for (const select of document.querySelectorAll("#samples select, #configs select")) select.addEventListener("change", draw);
drawTabs();
lookAgain();
