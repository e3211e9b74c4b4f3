"use strict";
// The scaled family, and the rules it may be scaled by.

function drawRules() {
  const rows = page.data.rules.filter((row) => known(row[metric()])).sort((a, b) => a[metric()] - b[metric()]);
  $("rules").hidden = !rows.length;
  if (!rows.length) return;
  fill("rules-note", page.data.texts.rules);
  chart(
    "rules-chart",
    [
      {
        type: "scatter",
        mode: "markers",
        x: rows.map((r) => 100 * r[metric()]),
        y: rows.map((r) => plain(r.rule)),
        error_x: {
          type: "data",
          array: rows.map((r) => 100 * (r.bar || 0)),
          color: colour("pale"),
          thickness: 1.4,
          width: 4,
        },
        marker: { size: 12, color: rows.map((r) => (r.picked ? colour("pick") : colour("front"))) },
        hovertemplate: rows.map(
          (r) =>
            `<b>${plain(r.rule)}</b>: ${percent(r[metric()], 2)}, ${r.trainings} trainings<br>${count(r.madds)} MAdds, ` +
            `${count(r.params)} parameters<extra></extra>`,
        ),
      },
    ],
    {
      height: 120 + 40 * rows.length,
      xaxis: { title: { text: `proxy ${metricName()} (%)` } },
      yaxis: { type: "category" },
    },
    `Scaling rules by proxy ${metricName()}: the best is ${rows.at(-1).rule}.`,
  );
}

function drawFamily() {
  const { family, published, texts } = page.data;
  fill("scaling-lead", texts.scaling);
  for (const place of ["family", "family-charts", "family-table", "family-note"]) $(place).hidden = !family.length;
  if (!family.length) return;
  const networks = family.map((row) => networkOf(row.network));
  const scale = Math.max(...networks.map(extent));
  fill(
    "family",
    el(
      "div",
      { class: "members" },
      ...family.map((row, i) =>
        el(
          "figure",
          { class: "card drawn" },
          el(
            "header",
            {},
            el("h3", {}, `φ = ${row.phi}`),
            copyButton(networks[i].text, `the block strings of φ = ${row.phi}`),
          ),
          el("p", { class: "said" }, `${row.resolution} px · ${count(row.madds)} MAdds · ${count(row.params)} parameters`),
          drawNetwork(networks[i], scale),
        ),
      ),
    ),
    drawLegend(),
  );
  const line = (some, name, tint, marker, more) => ({
    type: "scatter",
    mode: "lines+markers",
    name: plain(name),
    x: some.map((r) => r.madds),
    y: some.map((r) => r.params),
    line: { color: tint, width: 1.4 },
    marker: { color: tint, size: 7, symbol: marker },
    hovertemplate: some.map(
      (r) =>
        `<b>${plain(r.name || `φ = ${r.phi}`)}</b><br>${count(r.madds)} MAdds<br>${count(r.params)} parameters<extra></extra>`,
    ),
    ...more,
  });
  const all = [...family, ...published];
  chart(
    "family-chart",
    [
      ...publishedLines(published).map(({ name, rows, tint, marker }) => line(rows, name, tint, marker)),
      line(family, "this family", colour("pick"), "square", {
        marker: { color: colour("pick"), size: 10, symbol: "square" },
        mode: "lines+markers+text",
        text: family.map((r) => `φ ${r.phi}`),
        textposition: "top center",
        textfont: { color: colour("pick") },
        cliponaxis: false,
      }),
    ],
    {
      height: 420,
      hovermode: "closest",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      xaxis: logAxis(
        all.map((r) => r.madds),
        "multiply-adds per image",
      ),
      yaxis: logAxis(
        all.map((r) => r.params),
        "parameters",
      ),
    },
    "Parameters against MAdds of the family beside published networks.",
  );
  drawFamilyAccuracy(...[family, published].map((rows) => rows.filter((row) => known(row[metric()]))));
  drawFamilyTable(family, published);
}

// The published networks, each with its rows, colour and marker.
function publishedLines(published) {
  return [...new Set(published.map((row) => row.name))].map((name, i) => ({
    name,
    rows: published.filter((row) => row.name === name).sort((a, b) => a.madds - b.madds),
    tint: colour(`op-${["ds", "er", "cn"][i % 3]}`),
    marker: ["circle", "triangle-up", "diamond"][i % 3],
  }));
}

function drawFamilyAccuracy(done, published) {
  $("family-accuracy").hidden = !done.length;
  $("family-charts").style.gridTemplateColumns = done.length ? "" : "minmax(0, 1fr)";
  if (!done.length) return;
  const line = (rows, name, tint, marker, more) => ({
    type: "scatter",
    mode: "lines+markers",
    name: plain(name),
    x: rows.map((r) => r.madds),
    y: rows.map((r) => 100 * r[metric()]),
    line: { color: tint, width: 1.4 },
    marker: { color: tint, size: 7, symbol: marker },
    error_y: { type: "data", array: rows.map((r) => 100 * (r.bar || 0)), thickness: 1.2, color: tint },
    hovertemplate: rows.map(
      (r) =>
        `<b>${plain(r.name || `φ = ${r.phi}`)}</b>: ${percent(r[metric()], 2)}<br>trainings: ${r.trainings}, at ${r.image_size} px<extra></extra>`,
    ),
    ...more,
  });
  chart(
    "family-accuracy",
    [
      ...publishedLines(published).map(({ name, rows, tint, marker }) => line(rows, name, tint, marker)),
      line(done, "this family", colour("pick"), "square", {
        marker: { color: colour("pick"), size: 9, symbol: "square" },
        mode: "lines+markers+text",
        text: done.map((r) => `φ ${r.phi}`),
        textposition: "bottom right",
        textfont: { color: colour("pick") },
        cliponaxis: false,
      }),
    ],
    {
      height: 420,
      hovermode: "closest",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      xaxis: logAxis(
        [...done, ...published].map((r) => r.madds),
        "multiply-adds per image",
      ),
      yaxis: { title: { text: `proxy ${metricName()} (%), 95 % intervals between seeds` } },
    },
    `Proxy ${metricName()} of the family against MAdds beside published networks.`,
  );
}

function drawFamilyTable(family, published) {
  const columns = [
    ["φ", (r) => String(r.phi)],
    ["depth ×", (r) => r.depth.toFixed(2)],
    ["width ×", (r) => r.width.toFixed(2)],
    ["pixels", (r) => String(r.resolution)],
    ["MAdds", (r) => count(r.madds)],
    ["counted ×", (r) => r.counted_ratio.toFixed(2)],
    ["nominal ×", (r) => r.nominal_ratio.toFixed(2)],
    ["parameters", (r) => count(r.params)],
    ["activations", (r) => count(r.activations)],
    ["training memory", (r) => `${count(r.train_memory, 3)}B`],
    ...(family.some((r) => known(r.latency_measured)) ? [["latency", (r) => seconds(r.latency_measured)]] : []),
    ...(family.some((r) => known(r[metric()])) ? [[`proxy ${metricName()}`, (r) => percent(r[metric()], 2)]] : []),
  ];
  const timed = family.find((r) => known(r.latency_measured))?.latency_source;
  fill(
    "family-note",
    `Counted, nominal: MAdds relative to φ = 0, as counted and as (α·β²·γ²)^φ. Training memory: ${
      family[0].train_memory_source || "predicted"
    }, for ${family[0].train_memory_batch} images.${timed ? ` Latency, ${timed}.` : ""}${
      published.length
        ? " Published networks are fitted to the baseline, scaled by the same coefficients to the members' MAdds, and counted alike."
        : ""
    }`,
  );
  fill(
    "family-table",
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...columns.map(([name]) => el("th", { class: "number", scope: "col" }, name)))),
      el(
        "tbody",
        {},
        ...family.map((row) => el("tr", {}, ...columns.map(([, text]) => el("td", { class: "number" }, text(row))))),
      ),
    ),
  );
}
