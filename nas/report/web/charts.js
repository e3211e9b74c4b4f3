"use strict";
// The other pictures: the search's history, the choices, the grid, the rules, the family; and the style of all.

const narrow = () => window.innerWidth < 700;
const bound = new Set(); // charts that have their handlers

/** Draw a chart in the page's style, or draw it again; handlers are bound once. */
function chart(place, traces, layout, label, handlers = {}) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"),
    tickfont: { color: colour("soft"), size: 12 }, automargin: true };
  const merged = {
    autosize: true, margin: { l: 56, r: 18, t: 24, b: 60 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("pale"),
      activecolor: colour("ink") }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 12.5 },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink"), size: 13 },
      align: "left" },
    dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom", ...layout,
  };
  delete merged.height; // the element has it, so that a chart that follows its element's size keeps it
  for (const key of ["xaxis", "yaxis"]) {
    merged[key] = { ...axis, ...merged[key] };
    if (merged[key].title) merged[key].title.font = { size: 13, color: colour("soft") };
  }
  merged.legend = { bgcolor: "rgba(0,0,0,0)", font: { color: colour("soft"), size: 12 }, ...merged.legend };
  const node = $(place);
  node.style.height = `${layout.height}px`;
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label.replace(/\s+/g, " "));
  const config = { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
    modeBarButtons: [["toImage", "resetScale2d"]] };
  Plotly.react(node, traces, merged, config);
  if (!bound.has(place)) for (const [event, handle] of Object.entries(handlers)) node.on(event, handle);
  bound.add(place);
}

/** A logarithmic axis with ticks as people write counts. */
function logAxis(values, title, isTime = false) {
  const finite = values.filter((value) => known(value) && value > 0);
  const [low, high] = finite.length ? [finite.reduce((a, b) => Math.min(a, b)), finite.reduce((a, b) => Math.max(a, b))] : [1, 10];
  const [from, to] = [Math.log10(low / 1.2), Math.log10(high * 1.2)];
  const steps = to - from < 1 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : to - from < 2 ? [1, 2, 5] : [1, 3];
  const ticks = [];
  for (let decade = Math.floor(from); decade <= to; decade++)
    for (const step of steps) if (Math.log10(step) + decade > from && Math.log10(step) + decade < to) ticks.push(step * 10 ** decade);
  return { type: "log", range: [from, to], tickvals: ticks, ticktext: ticks.map((tick) => (isTime ? seconds(tick) : count(tick, 3))),
    title: { text: `${title} (log scale)` } };
}

function drawHistory() {
  const { trial, share } = page.data.history;
  $("search").hidden = !trial.length;
  if (!trial.length) return;
  fill("history-note", page.data.texts.history);
  chart("history-chart", [{ type: "scatter", mode: "lines", x: trial, y: share.map((value) => 100 * value),
    line: { shape: "hv", color: colour("front"), width: 2.2 }, fill: "tozeroy", fillcolor: colour("front", 0.13),
    hovertemplate: "after trial %{x}: %{y:.1f} %<extra></extra>" }],
  { height: 280, xaxis: { title: { text: "trial" } }, yaxis: { title: { text: "hypervolume (%)" }, rangemode: "tozero" } },
  `Hypervolume of the front after each trial: it ends at ${percent(share[share.length - 1])}.`);
}

const FEW = 12; // choices shown until all are asked for

function drawEffects() {
  const { effects, texts, kinds } = page.data;
  const empty = !effects.length;
  $("choices").hidden = empty && !texts.effects;
  fill("effects-note", texts.effects);
  $("effects-charts").hidden = $("all-choices").hidden = empty;
  if (empty) return;
  const choices = new Map();
  for (const row of effects) choices.set(row.choice, [...(choices.get(row.choice) || []), row]);
  const spread = (rows) => Math.max(...rows.map((r) => r.accuracy_effect)) - Math.min(...rows.map((r) => r.accuracy_effect));
  const ranked = [...choices.values()].sort((a, b) => spread(b) - spread(a));
  const all = $("all-choices").getAttribute("aria-expanded") === "true";
  $("all-choices").hidden = ranked.length <= FEW;
  fill("all-choices", all ? `Only the ${FEW} with the largest effect` : `Show all ${ranked.length}`);
  const shown = (all ? ranked : ranked.slice(0, FEW)).reverse();
  const names = shown.map((rows) => plain(`stage ${rows[0].stage} · ${kinds[rows[0].kind] || rows[0].kind}`));
  const most = Math.max(...shown.map((rows) => rows.length));
  const tints = Array.from({ length: most }, (_, i) => ["ds", "ir", "er", "cn", "end"][i % 5]).map((op) => colour(`op-${op}`));
  const side = (key, error, factor, unit) => tints.map((tint, i) => {
    const some = shown.flatMap((rows, place) => (rows[i] ? [[rows[i], place + 0.16 * ((rows.length - 1) / 2 - i)]] : []));
    return {
      type: "scatter", mode: "markers+text", x: some.map(([row]) => factor * row[key]), y: some.map(([, place]) => place),
      marker: { color: tint, size: 9 }, showlegend: false, cliponaxis: false,
      error_x: error ? { type: "data", array: some.map(([row]) => 2 * factor * row[error]), color: tint, thickness: 1.2, width: 0 } : {},
      hovertemplate: some.map(([row]) => `${plain(kinds[row.kind] || row.kind)} <b>${plain(row.value)}</b> in stage ${row.stage}<br>` +
        (error ? `${signed(100 * row[key], 2)} ± ${(200 * row[error]).toFixed(2)} points` : `${row[key] < 0 ? "−" : "+"}${count(Math.abs(row[key]))} MAdds`) +
        `<br>in ${row.trials} trained networks<extra></extra>`),
      text: some.map(([row]) => plain(row.value)), textposition: "top center", textfont: { size: 9.5, color: tint },
    };
  });
  const layout = (title) => ({ height: 90 + 42 * shown.length, hovermode: "closest",
    xaxis: { title: { text: title }, zeroline: true, zerolinecolor: colour("soft") },
    yaxis: { tickvals: names.map((_, i) => i), ticktext: names, range: [-0.7, shown.length - 0.2], showgrid: true } });
  chart("effects-accuracy", side("accuracy_effect", "accuracy_error", 100), layout("effect on accuracy (points)"),
    `Effect of each choice on accuracy, the largest first: ${names.at(-1)}.`);
  chart("effects-madds", side("madds_effect", null, 1), layout("effect on MAdds"), "Effect of each choice on MAdds.");
}

const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

function drawGrid() {
  const rows = page.data.grid.filter((row) => known(row.accuracy));
  $("grid").hidden = !rows.length;
  if (!rows.length) return;
  fill("grid-note", page.data.texts.grid);
  const logs = (row) => [Math.log(row.alpha), 2 * Math.log(row.beta), 2 * Math.log(row.gamma)];
  const said = (row) => `α ${row.alpha} · β ${row.beta} · γ ${row.gamma}`;
  const hover = (row) => `<b>${said(row)}</b>${row.picked ? " · picked" : ""}${row.paper ? " · the paper's" : ""}<br>` +
    `${percent(row.accuracy, 2)} after ${row.epochs} epochs, seeds: ${row.trainings}<br>` +
    `MAdds × ${row.product.toFixed(2)} nominal, × ${row.counted_ratio.toFixed(2)} counted<extra></extra>`;
  const ordered = [...rows].sort((a, b) => a.first_accuracy - b.first_accuracy);
  const ternary = (some, marker, name) => ({ type: "scatterternary", mode: "markers", name, a: some.map((r) => logs(r)[2]),
    b: some.map((r) => logs(r)[0]), c: some.map((r) => logs(r)[1]), hovertemplate: some.map(hover), marker, cliponaxis: false });
  const axis = (text) => ({ title: { text, font: { size: 13 } }, showticklabels: false, ticks: "", gridcolor: colour("line"),
    linecolor: colour("soft"), min: 0 });
  const corner = (name) => (narrow() ? name : `all into ${name}`);
  const epochs = rows.find((row) => row.stage === 1)?.epochs;
  const bar = narrow() ? { orientation: "h", y: -0.32, len: 0.9 } : { len: 0.75 };
  chart("grid-chart", [
    ternary(ordered, { size: 15, color: ordered.map((r) => 100 * r.first_accuracy), colorscale: "Viridis", showscale: true,
      line: { width: 0.5, color: colour("ink") },
      colorbar: { title: { text: `accuracy (%)${epochs ? `<br>after ${epochs} ep.` : ""}`, font: { size: 11 } }, thickness: 10, outlinewidth: 0, ...bar } },
    "triples"),
    ternary(rows.filter((r) => r.paper), { symbol: "diamond-open", size: 24, color: colour("ink"), line: { width: 1.5 } }, "the paper's"),
    ternary(rows.filter((r) => r.picked), { symbol: "star-open", size: 30, color: colour("pick"), line: { width: 2 } }, "picked"),
  ], { height: 430, margin: { l: 50, r: 30, t: 50, b: narrow() ? 110 : 60 },
    ternary: { bgcolor: "rgba(0,0,0,0)", aaxis: axis(corner("resolution")), baxis: axis(corner("depth")), caxis: axis(corner("width")) },
    legend: { orientation: "h", y: -0.1 } },
  `The triples of α, β and γ by how they share the growth between depth, width and resolution.`);
  const seen = new Set();
  const best = [...rows].sort((a, b) => b.stage - a.stage || b.accuracy - a.accuracy || b.picked - a.picked)
    .filter((row) => !seen.has(row.hash) && seen.add(row.hash)).slice(0, 16).reverse();
  const last = Math.max(...best.map((row) => row.stage));
  const tint = (row) => (row.picked ? colour("pick") : row.stage === last ? colour("front") : colour("pale"));
  chart("grid-ranking", [false, true].map((final) => {
    const some = best.map((row, i) => [row, i]).filter(([row]) => (row.stage === last) === final);
    return { type: "scatter", mode: "markers", x: some.map(([row]) => 100 * row.accuracy), y: some.map(([, i]) => i),
      name: final ? `the last stage: ${some[0]?.[0].epochs} epochs, ${some[0]?.[0].trainings} seeds` : "earlier stages",
      marker: { size: 10, color: some.map(([row]) => tint(row)) }, hovertemplate: some.map(([row]) => hover(row)),
      error_x: { type: "data", array: some.map(([row]) => 100 * (row.accuracy_error || 0)), thickness: 1.2, width: 3, color: colour("pale") } };
  }), { height: 430, hovermode: "closest", legend: { orientation: "h", y: -0.22 },
    xaxis: { title: { text: "proxy accuracy (%)" } },
    yaxis: { tickvals: best.map((_, i) => i), ticktext: best.map((row) => `${row.alpha} / ${row.beta} / ${row.gamma}${row.paper ? " ◇" : ""}${row.picked ? " ☆" : ""}`),
      range: [-0.7, best.length - 0.3] } },
  `The triples by proxy accuracy: the best is ${said(best.at(-1))}.`);
}

function drawRules() {
  const rows = page.data.rules.filter((row) => known(row.accuracy)).sort((a, b) => a.accuracy - b.accuracy);
  $("rules").hidden = !rows.length;
  if (!rows.length) return;
  chart("rules-chart", [{ type: "scatter", mode: "markers", x: rows.map((r) => 100 * r.accuracy), y: rows.map((r) => plain(r.rule)),
    error_x: { type: "data", array: rows.map((r) => 100 * (r.accuracy_error || 0)), color: colour("pale"), thickness: 1.4, width: 4 },
    marker: { size: 12, color: rows.map((r) => (r.picked ? colour("pick") : colour("front"))) },
    hovertemplate: rows.map((r) => `<b>${plain(r.rule)}</b>: ${percent(r.accuracy, 2)}, ${r.trainings} trainings<br>${count(r.madds)} MAdds, ` +
      `${count(r.params)} parameters<extra></extra>`) }],
  { height: 120 + 40 * rows.length, xaxis: { title: { text: "proxy accuracy (%), bars: 95 % intervals between seeds" } }, yaxis: { type: "category" } },
  `Scaling rules by proxy accuracy: the best is ${rows.at(-1).rule}.`);
}

function drawFamily() {
  const { family, published, texts } = page.data;
  fill("scaling-lead", texts.scaling);
  for (const place of ["family", "family-charts", "family-table", "family-note"]) $(place).hidden = !family.length;
  if (!family.length) return;
  const networks = family.map((row) => networkOf(row.network));
  const scale = Math.max(...networks.map(extent));
  fill("family", el("div", { class: "members" }, ...family.map((row, i) => el("figure", { class: "card drawn" },
    el("header", {}, el("h3", {}, `φ = ${row.phi}`), copyButton(networks[i].text, `the block strings of φ = ${row.phi}`)),
    el("p", { class: "said" }, `${row.pixels} px · ${count(row.madds)} MAdds · ${count(row.params)} parameters`),
    drawNetwork(networks[i], scale)))), drawLegend());
  const series = [...new Set(published.map((row) => row.series))];
  const line = (some, name, tint, marker, more) => ({ type: "scatter", mode: "lines+markers", name: plain(name), x: some.map((r) => r.madds),
    y: some.map((r) => r.params), line: { color: tint, width: 1.4 }, marker: { color: tint, size: 7, symbol: marker },
    hovertemplate: some.map((r) => `<b>${plain(r.name || `φ = ${r.phi}`)}</b><br>${count(r.madds)} MAdds<br>${count(r.params)} parameters<extra></extra>`), ...more });
  const all = [...family, ...published];
  chart("family-chart", [
    ...series.map((name, i) => line(published.filter((r) => r.series === name).sort((a, b) => a.madds - b.madds), name,
      colour(`op-${["ds", "er", "cn"][i % 3]}`), ["circle", "triangle-up", "diamond"][i % 3])),
    line(family, "this family", colour("pick"), "square", { marker: { color: colour("pick"), size: 10, symbol: "square" },
      mode: "lines+markers+text", text: family.map((r) => `φ ${r.phi}`), textposition: "top left", textfont: { color: colour("pick") } }),
  ], { height: 420, hovermode: "closest", legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    xaxis: logAxis(all.map((r) => r.madds), "multiply-adds per image, at own resolution"), yaxis: logAxis(all.map((r) => r.params), "parameters") },
  "Parameters against MAdds of the family beside published networks.");
  drawFamilyAccuracy(family.filter((row) => known(row.accuracy)));
  drawFamilyTable(family);
}

function drawFamilyAccuracy(done) {
  $("family-accuracy").hidden = !done.length;
  $("family-charts").style.gridTemplateColumns = done.length ? "" : "minmax(0, 1fr)";
  if (!done.length) return;
  chart("family-accuracy", [{ type: "scatter", mode: "lines+markers+text", x: done.map((r) => r.madds), y: done.map((r) => 100 * r.accuracy),
    text: done.map((r) => `φ ${r.phi}`), textposition: "bottom right", line: { color: colour("pick") }, marker: { size: 9 },
    error_y: { type: "data", array: done.map((r) => 100 * (r.accuracy_error || 0)), thickness: 1.2, color: colour("pick") },
    hovertemplate: done.map((r) => `<b>φ = ${r.phi}</b>: ${percent(r.accuracy, 2)}, ${r.trainings} trainings at ${r.image_size} px<extra></extra>`) }],
  { height: 420, xaxis: logAxis(done.map((r) => r.madds), "multiply-adds per image"), yaxis: { title: { text: "proxy accuracy (%), 95 % intervals between seeds" } } },
  "Proxy accuracy of the family against MAdds.");
}

function drawFamilyTable(family) {
  const columns = [
    ["φ", (r) => String(r.phi)], ["depth ×", (r) => r.depth.toFixed(2)], ["width ×", (r) => r.width.toFixed(2)], ["pixels", (r) => String(r.pixels)],
    ["MAdds", (r) => count(r.madds)], ["counted ×", (r) => r.counted_ratio.toFixed(2)], ["nominal ×", (r) => r.nominal_ratio.toFixed(2)],
    ["parameters", (r) => count(r.params)], ["activations", (r) => count(r.activations)],
    ["training memory", (r) => `${count(r.train_memory, 3)}B`],
    ...(family.some((r) => known(r.latency)) ? [["latency", (r) => seconds(r.latency)]] : []),
    ...(family.some((r) => known(r.accuracy)) ? [["proxy accuracy", (r) => percent(r.accuracy, 2)]] : []),
  ];
  const timed = family.find((r) => known(r.latency))?.latency_source;
  fill("family-note", `Counted, nominal: MAdds relative to φ = 0, as counted and as (α·β²·γ²)^φ. Training memory: ${family[0].train_memory_source ||
    "predicted"}, for ${family[0].train_memory_batch} images.${timed ? ` Latency, ${timed}.` : ""} Published networks at their own resolutions.`);
  fill("family-table", el("table", {}, el("thead", {}, el("tr", {}, ...columns.map(([name]) => el("th", { class: "number", scope: "col" }, name)))),
    el("tbody", {}, ...family.map((row) => el("tr", {}, ...columns.map(([, text]) => el("td", { class: "number" }, text(row))))))));
}
