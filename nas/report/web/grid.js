"use strict";
// How α, β and γ were found: the triples of the grid, their ranking, and the network that is looked at.

const said = (row) => `α ${row.alpha} · β ${row.beta} · γ ${row.gamma}`;
const triples = () => page.data.grid.filter((row) => known(row[metric()]));

/** The best first: those that came further, then the more accurate. */
const rankedTriples = () =>
  triples().sort((a, b) => b.stage - a.stage || b[metric()] - a[metric()] || b.picked - a.picked);

function drawGrid() {
  const rows = triples();
  $("grid").hidden = !rows.length;
  if (!rows.length) return;
  fill("grid-note", page.data.texts.grid);
  const logs = (row) => [Math.log(row.alpha), 2 * Math.log(row.beta), 2 * Math.log(row.gamma)];
  const hover = (row) =>
    `<b>${said(row)}</b>${row.picked ? " · picked" : ""}${row.paper ? " · the paper's" : ""}<br>` +
    `${percent(row[metric()], 2)} after ${epochsText(row.epochs)}, seeds: ${row.trainings}<br>` +
    `MAdds × ${row.product.toFixed(2)} nominal, × ${row.counted_ratio.toFixed(2)} counted<extra></extra>`;
  const handlers = { plotly_hover: showTriple, plotly_click: showTriple };
  const first = `first_${metric()}`;
  const ordered = [...rows].sort((a, b) => a[first] - b[first]);
  const ternary = (some, marker, name) => ({
    type: "scatterternary",
    mode: "markers",
    name,
    a: some.map((r) => logs(r)[2]),
    b: some.map((r) => logs(r)[0]),
    c: some.map((r) => logs(r)[1]),
    customdata: some.map(said),
    hovertemplate: some.map(hover),
    marker,
    cliponaxis: false,
  });
  const axis = (text) => ({
    title: { text, font: { size: 13 } },
    showticklabels: false,
    ticks: "outside", // unseen: they keep a corner's name clear of a marker there
    ticklen: 14,
    tickcolor: "rgba(0,0,0,0)",
    gridcolor: colour("line"),
    linecolor: colour("soft"),
    min: 0,
  });
  const corner = (name) => (narrow() ? name : `all into ${name}`);
  const epochs = rows.find((row) => row.stage === 1)?.epochs;
  const bar = narrow() ? { orientation: "h", y: -0.36, len: 0.9 } : { len: 0.75 };
  chart(
    "grid-chart",
    [
      ternary(
        ordered,
        {
          size: 15,
          color: ordered.map((r) => 100 * r[first]),
          colorscale: "Viridis",
          showscale: true,
          line: { width: 0.5, color: colour("ink") },
          colorbar: {
            title: { text: `${metricName()} (%)${epochs ? `<br>after ${epochs} ep.` : ""}`, font: { size: 11 } },
            thickness: 10,
            outlinewidth: 0,
            ...bar,
          },
        },
        "triples",
      ),
      ternary(
        rows.filter((r) => r.paper),
        { symbol: "diamond-open", size: 24, color: colour("ink"), line: { width: 1.5 } },
        "the paper's",
      ),
      ternary(
        rows.filter((r) => r.picked),
        { symbol: "star-open", size: 30, color: colour("pick"), line: { width: 2 } },
        "picked",
      ),
    ],
    {
      height: 430,
      margin: { l: 50, r: 30, t: 50, b: narrow() ? 140 : 60 },
      ternary: {
        bgcolor: "rgba(0,0,0,0)",
        aaxis: axis(corner("resolution")),
        baxis: axis(corner("depth")),
        caxis: axis(corner("width")),
      },
      legend: { orientation: "h", y: narrow() ? -0.5 : -0.1 },
    },
    `The triples of α, β and γ by how they share the growth between depth, width and resolution.`,
    handlers,
  );
  const seen = new Set();
  const best = rankedTriples()
    .filter((row) => !seen.has(row.hash) && seen.add(row.hash))
    .slice(0, 16)
    .reverse();
  const last = Math.max(...best.map((row) => row.stage));
  const tint = (row) => (row.picked ? colour("pick") : row.stage === last ? colour("front") : colour("pale"));
  chart(
    "grid-ranking",
    [false, true].map((final) => {
      const some = best.map((row, i) => [row, i]).filter(([row]) => (row.stage === last) === final);
      return {
        type: "scatter",
        mode: "markers",
        x: some.map(([row]) => 100 * row[metric()]),
        y: some.map(([, i]) => i),
        name: final
          ? `the last stage: ${epochsText(some[0]?.[0].epochs)}, ${some[0]?.[0].trainings} seeds`
          : "earlier stages",
        marker: { size: 10, color: some.map(([row]) => tint(row)) },
        customdata: some.map(([row]) => said(row)),
        hovertemplate: some.map(([row]) => hover(row)),
        error_x: {
          type: "data",
          array: some.map(([row]) => 100 * (row.bar || 0)),
          thickness: 1.2,
          width: 3,
          color: colour("pale"),
        },
      };
    }),
    {
      height: Math.min(430, 160 + 36 * best.length),
      hovermode: "closest",
      legend: { orientation: "h", y: -0.22 },
      xaxis: { title: { text: `proxy ${metricName()} (%)` } },
      yaxis: {
        tickvals: best.map((_, i) => i),
        ticktext: best.map(
          (row) => `${row.alpha} / ${row.beta} / ${row.gamma}${row.paper ? " ◇" : ""}${row.picked ? " ☆" : ""}`,
        ),
        range: [-0.7, best.length - 0.3],
      },
    },
    `The triples by proxy ${metricName()}: the best is ${said(best.at(-1))}.`,
    handlers,
  );
  drawTriple();
}

/** Draw the network of the triple that the pointer is at. */
function showTriple(event) {
  if (page.triple === event.points[0].customdata) return;
  page.triple = event.points[0].customdata;
  drawTriple();
}

/** The network that α, β and γ make of the baseline, beside the grid: the picked triple's until another is shown. */
function drawTriple() {
  const rows = rankedTriples().filter((row) => known(row.network));
  $("grid-detail").hidden = $("triple").parentNode.hidden = !rows.length;
  if (!rows.length) return;
  const row = rows.find((one) => said(one) === page.triple) || rows.find((one) => one.picked) || rows[0];
  const name = (one) => `${said(one)}${one.picked ? ", picked" : ""}${one.paper ? ", the paper's" : ""}`;
  fill("triple", ...rows.map((one) => el("option", { value: said(one) }, name(one))));
  $("triple").value = said(row);
  const networks = rows.map((one) => networkOf(one.network));
  const network = networkOf(row.network);
  const seeds = row.trainings > 1 ? `, mean of ${row.trainings}` : "";
  fill(
    "grid-detail",
    el("header", {}, el("h3", {}, name(row))),
    el(
      "p",
      { class: "said" },
      `${percent(row[metric()], 2)} after ${epochsText(row.epochs)}${seeds} · ${count(row.madds)} MAdds · ` +
        `${count(row.params)} parameters · ${row.resolution} px`,
    ),
    drawNetwork(network, Math.max(...networks.map(extent))),
    drawLegend(),
    el("div", { class: "tasks" }, copyButton(network.text, "its block strings")),
  );
}

function bootGrid() {
  $("triple").addEventListener("change", () => {
    page.triple = $("triple").value;
    drawTriple();
  });
}
