"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const repeated = data.groups.some(group => group.members.length > 1);
const chosen = { clock: "update", smoothing: 0.6, log: false, mean: repeated };
const hidden = { runs: new Set(), groups: new Set() };
const dark = matchMedia("(prefers-color-scheme: dark)");
const css = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
// On a dark ground every colour is mixed with three tenths of white.
const paint = colour => (dark.matches ? "#" + [1, 3, 5].map(i => Math.round(0.7 * parseInt(colour.slice(i, i + 2), 16) + 76.5).toString(16).padStart(2, "0")).join("") : colour);
const kind = () => (chosen.mean ? "groups" : "runs");
const members = i => (chosen.mean ? data.groups[i].members : [i]);

function spread(values) {
  const n = values.length, mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 3) return [Math.min(...values), Math.max(...values)];
  const half = data.t[n] * Math.sqrt(values.reduce((s, y) => s + (y - mean) ** 2, 0) / (n - 1) / n);
  return [mean - half, mean + half];
}

// Exponential smoothing without the bias of its beginning; gaps stay gaps.
function smooth(values, keep) {
  let sum = 0, weight = 0;
  return values.map(value => {
    if (value === null) return null;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

// A share needs about twenty updates; without any smoothing it is what was logged. Evaluations are few, and averages already.
const keep = chart => (chart.section === "Evaluation during training" ? 0 : chosen.smoothing && Math.max(chosen.smoothing, chart.least || 0));

// From its first point to a run's end a gap has the value before it: tasks need not fall into the same updates of all seeds.
function filled(values) {
  let held = null;
  return values.map(y => (held = y ?? held));
}

// Of several runs: at every update in which one of them has a point, the mean of those still going, and its band: the least and the
// greatest of two runs, whose interval would say nothing, of more the 95 % interval of their mean.
function meanOf(runs, curves) {
  const rows = new Map(), logged = new Set();
  runs.forEach((run, k) => curves[k].forEach((y, i) => { if (y !== null) logged.add(data.runs[run].update[i]); }));
  runs.forEach((run, k) => filled(curves[k]).forEach((y, i) => {
    if (y === null || !logged.has(data.runs[run].update[i])) return;
    const update = data.runs[run].update[i], row = rows.get(update) || { x: 0, y: [] };
    row.x += data.runs[run][chosen.clock][i];
    row.y.push(y);
    rows.set(update, row);
  }));
  // before every run has a point the mean would jump when the next one joins
  const begun = Math.max(...runs.map((run, k) => data.runs[run].update[curves[k].findIndex(y => y !== null)] ?? 0));
  if ([...rows.keys()].some(update => update >= begun)) [...rows.keys()].filter(update => update < begun).forEach(update => rows.delete(update));
  const sorted = [...rows.entries()].sort((a, b) => a[0] - b[0]).map(entry => entry[1]);
  const mean = sorted.map(row => row.y.reduce((a, b) => a + b, 0) / row.y.length);
  const ends = sorted.map(row => spread(row.y));
  return { x: sorted.map(row => row.x / row.y.length), mean, low: ends.map(e => e[0]), high: ends.map(e => e[1]) };
}

// What is not logged in every update, such as an evaluation, has its points marked: one alone would be no line at all.
const seen = (points, updates) => (points < 2 ? "markers" : 2 * points > updates ? "lines" : "lines+markers");

function curves(chart) {
  return data[kind()].flatMap((entry, i) => {
    const runs = members(i).filter(run => chart.y[run]);
    if (!runs.length || hidden[kind()].has(i)) return [];
    const colour = paint(entry.colour), line = { color: colour, width: 2 }, name = entry.label;
    const hovertemplate = `%{y:.4g} at ${chosen.clock} %{x}<extra>${name.replace(/[<>%]/g, " ")}</extra>`;
    const smoothed = runs.map(run => smooth(chart.y[run], keep(chart)));
    if (runs.length > 1) {
      const { x, mean, low, high } = meanOf(runs, smoothed), edge = { width: 0, color: colour };
      return [
        { x, y: low, mode: "lines", line: edge, hoverinfo: "skip" },
        { x, y: high, mode: "lines", line: edge, fill: "tonexty", fillcolor: colour + (runs.length > 2 ? "1f" : "14"), hoverinfo: "skip" },
        ...runs.map((run, k) => ({ x: data.runs[run][chosen.clock], y: smoothed[k], mode: "lines", connectgaps: true, line: { ...line, width: 1 }, opacity: 0.25, hoverinfo: "skip" })),
        { x, y: mean, mode: seen(mean.length, Math.max(...runs.map(run => data.runs[run].update.length))), line, marker: { color: colour, size: 7 }, name, hovertemplate },
      ];
    }
    const x = data.runs[runs[0]][chosen.clock], points = chart.y[runs[0]].filter(y => y !== null).length, few = points < 2;
    const mode = seen(points, x.length);
    const raw = { x, y: chart.y[runs[0]], mode: "lines", line: { ...line, width: 1 }, opacity: 0.25, hoverinfo: "skip", connectgaps: true };
    const shown = { x, y: smoothed[0], mode, connectgaps: true, line, marker: { color: colour, size: 7 }, name, hovertemplate };
    return keep(chart) > 0 && !few && !chart.least ? [raw, shown] : [shown]; // of a share what was logged is 0 or 1: a filled box
  });
}

// Evaluations: a filled point with its interval after training, an open one before; over seeds the mean and its interval.
function points(chart) {
  const shown = data[kind()].map((_, i) => i).filter(i => !hidden[kind()].has(i));
  return shown.flatMap((i, place) => {
    const entry = data[kind()][i], colour = paint(entry.colour), x = chart.metrics.map((_, m) => m + (place + 1) / (shown.length + 1) - 0.5);
    const cell = m => {
      const found = members(i).map(run => chart.values[run][m]).filter(v => v[0] !== null);
      if (!found.length) return [null, null, null];
      const mean = found.reduce((s, v) => s + v[0], 0) / found.length;
      if (found.length < 2) return found[0];
      return [mean, ...spread(found.map(v => v[0]))];
    };
    const values = chart.metrics.map((_, m) => cell(m));
    const before = chart.metrics.map((_, m) => {
      const found = members(i).map(run => chart.values[run][m][3]).filter(v => v !== null);
      return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
    });
    const side = pick => values.map(v => (v[1] === null || v[1] === undefined ? 0 : pick(v)));
    const error = { type: "data", symmetric: false, array: side(v => v[2] - v[0]), arrayminus: side(v => v[0] - v[1]), color: colour, thickness: 1.5, width: 4 };
    const label = entry.label.replace(/[<>%]/g, " ");
    return [
      { x, y: before, mode: "markers", marker: { color: css("paper"), size: 8, line: { color: colour, width: 1.5 } }, name: entry.label, hovertemplate: `before %{y:.4g}<extra>${label}</extra>` },
      { x, y: values.map(v => v[0]), mode: "markers", marker: { color: colour, size: 9 }, error_y: error, name: entry.label, hovertemplate: `%{y:.4g}<extra>${label}</extra>` },
    ];
  });
}

// The y axis where plotly's own choice would mislead: a constant is drawn as one, not as the rounding of its smoothing; and
// intervals over few seeds, many times wider than the runs differ, are cut where they would flatten the curves.
function range(chart, traces) {
  const shown = data[kind()].map((_, i) => i).filter(i => !hidden[kind()].has(i)).map(i => members(i).filter(run => chart.y[run]));
  const extent = lists => lists.flat().reduce(([low, high], y) => (y === null ? [low, high] : [Math.min(low, y), Math.max(high, y)]), [Infinity, -Infinity]);
  const [low, high] = extent(shown.flat().map(run => smooth(chart.y[run], keep(chart)))), span = high - low, size = Math.max(Math.abs(low), Math.abs(high));
  if (low > high) return null;
  if (span <= 1e-9 * size) return [low - (size || 1) / 2, high + (size || 1) / 2];
  if (shown.every(runs => runs.length < 2)) return null;
  const [bottom, top] = extent(traces.map(t => t.y));
  const floor = low < 0 ? -Infinity : 0; // an interval may reach below 0 where no run does: a loss below 0 would only confuse
  return [Math.max(bottom, low - span / 2, floor) - 0.05 * span, Math.min(top, high + span / 2) + 0.05 * span];
}

function layout(chart, traces) {
  const axis = { gridcolor: css("grid"), zerolinecolor: css("zero"), linecolor: css("line"), automargin: true, tickfont: { size: 11 } };
  const common = { margin: { l: 44, r: 14, t: 8, b: 34 }, showlegend: false, hovermode: "closest", dragmode: "zoom", uirevision: chosen.clock + chosen.log,
    font: { family: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", size: 12, color: css("ink") }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  if (chart.metrics) {
    const ticks = { tickvals: chart.metrics.map((_, i) => i), ticktext: chart.metrics, range: [-0.5, chart.metrics.length - 0.5], showgrid: false, zeroline: false, autotickangles: [0, -35, -90], ticklabeloverflow: "allow" };
    return { ...common, xaxis: { ...axis, ...ticks }, yaxis: axis };
  }
  const positive = chart.section === "Losses" || chart.section === "More metrics";
  const seen = chart.range || range(chart, traces);
  const y = chosen.log && positive ? { ...axis, type: "log" } : seen ? { ...axis, range: seen } : axis;
  return { ...common, xaxis: { ...axis, title: { text: chosen.clock, font: { size: 11 }, standoff: 6 } }, yaxis: y };
}

const drawn = [];
function draw(entry) {
  if (entry.plot.closest("details:not([open])")) return; // inside a folded section: drawn when it is opened
  const traces = entry.chart.metrics ? points(entry.chart) : curves(entry.chart);
  Plotly.react(entry.plot, traces, layout(entry.chart, traces), { responsive: true, displaylogo: false, displayModeBar: false });
}

function legend() {
  const bar = document.getElementById("legend"), which = kind();
  bar.replaceChildren(...data[which].map((entry, i) => {
    const button = document.createElement("button");
    button.textContent = entry.label + (which === "groups" && entry.members.length > 1 ? ` (${entry.members.length} seeds)` : "");
    button.title = `${button.textContent}\nclick: show or hide; double click: this one alone, or all`;
    button.style.setProperty("--colour", paint(entry.colour));
    button.setAttribute("aria-pressed", String(!hidden[which].has(i)));
    button.onclick = () => { hidden[which].has(i) ? hidden[which].delete(i) : hidden[which].add(i); update(); };
    button.ondblclick = () => {
      const others = data[which].map((_, k) => k).filter(k => k !== i), alone = others.every(k => hidden[which].has(k));
      hidden[which] = new Set(alone ? [] : others);
      update();
    };
    return button;
  }));
}

// In the tables a run or group has the colour of its curves.
function swatches() {
  const ofRun = run => paint(chosen.mean ? data.groups.find(group => group.members.includes(run)).colour : data.runs[run].colour);
  document.querySelectorAll("thead th[data-run]").forEach(cell => cell.style.setProperty("--colour", ofRun(Number(cell.dataset.run))));
  document.querySelectorAll("tr[data-run]").forEach(row => row.firstChild.style.setProperty("--colour", ofRun(Number(row.dataset.run))));
  document.querySelectorAll("thead th[data-group]").forEach(cell => cell.style.setProperty("--colour", chosen.mean ? paint(data.groups[cell.dataset.group].colour) : "transparent"));
}

function update() {
  // buttons are kept while only their state changes: a double click must find the one it began on
  const buttons = document.querySelectorAll("#legend button");
  if (buttons.length === data[kind()].length && legend.last === kind() + dark.matches) buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(!hidden[kind()].has(i))));
  else legend();
  legend.last = kind() + dark.matches;
  const away = new Set([...hidden[kind()]].flatMap(members));
  document.querySelectorAll("[data-run]").forEach(element => { element.hidden = away.has(Number(element.dataset.run)); });
  document.querySelectorAll("[data-group]").forEach(element => { element.hidden = data.groups[element.dataset.group].members.every(run => away.has(run)); });
  swatches();
  drawn.forEach(draw);
}

for (const place of document.querySelectorAll(".charts")) {
  const section = place.dataset.section, charts = [...data.charts, ...data.points].filter(chart => chart.section === section);
  if (!charts.length && !place.nextElementSibling) place.closest("details").remove(); // neither a curve nor a table
  for (const chart of charts) {
    const box = document.createElement("div"), title = document.createElement("h3"), plot = document.createElement("div");
    box.className = chart.metrics && chart.metrics.length > 4 && section === "Evaluation" ? "chart wide" : "chart";
    if (chart.about) {
      const button = document.createElement("button"), about = document.createElement("p");
      [button.textContent, button.title, about.textContent, about.hidden] = [chart.title, chart.about, chart.about, true];
      button.onclick = () => { about.hidden = !about.hidden; };
      title.append(button);
      box.append(title, about);
    } else {
      title.textContent = chart.title;
      box.append(title);
    }
    plot.className = section === "Ablation" ? "plot tall" : "plot"; // the variants' names need room
    box.append(plot);
    place.append(box);
    drawn.push({ chart, plot });
  }
}
const on = (id, event, act) => document.getElementById(id).addEventListener(event, e => { act(e.target); update(); });
on("smoothing", "input", input => { chosen.smoothing = Number(input.value); document.getElementById("amount").textContent = chosen.smoothing.toFixed(2); });
on("clock", "change", input => { chosen.clock = input.value; });
on("log", "change", input => { chosen.log = input.checked; });
dark.addEventListener("change", update);
on("mean", "change", input => { chosen.mean = input.checked; });
document.querySelectorAll(".tip").forEach(tip => { tip.onclick = () => { tip.dataset.open = tip.dataset.open ? "" : "1"; }; });
document.querySelectorAll(".sheets").forEach(row => row.addEventListener("click", e => { if (e.target.tagName === "IMG") row.classList.toggle("large"); }));
document.getElementById("mean").checked = chosen.mean;
document.getElementById("mean-label").hidden = !repeated;
document.querySelectorAll("details").forEach(element => element.addEventListener("toggle", () => drawn.filter(entry => element.contains(entry.plot)).forEach(draw)));
update();
