"use strict";
// The style of all charts; the search's history, and what each choice does.

const narrow = () => window.innerWidth < 700;
const bound = new Set(); // charts that have their handlers

/** Draw a chart in the page's style, or draw it again; handlers are bound once. */
function chart(place, traces, layout, label, handlers = {}) {
  const axis = {
    gridcolor: colour("line"),
    zerolinecolor: colour("line"),
    linecolor: colour("line"),
    tickfont: { color: colour("soft"), size: 12 },
    automargin: true,
  };
  const merged = {
    autosize: true,
    margin: { l: 56, r: 18, t: 24, b: 60 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("pale"), activecolor: colour("ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 12.5 },
    hoverlabel: {
      bgcolor: colour("card"),
      bordercolor: colour("line"),
      font: { color: colour("ink"), size: 13 },
      align: "left",
    },
    uirevision: place, // zoom and hidden entries of the legend are the reader's and stay
    dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...layout,
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
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: narrow() ? false : "hover",
    modeBarButtons: [["toImage", "resetScale2d"]],
  };
  Plotly.react(node, traces, merged, config);
  if (!bound.has(place)) for (const [event, handle] of Object.entries(handlers)) node.on(event, handle);
  bound.add(place);
}

/** A logarithmic axis with ticks as people write counts. */
function logAxis(values, title, isTime = false) {
  const finite = values.filter((value) => known(value) && value > 0);
  const [low, high] = finite.length
    ? [finite.reduce((a, b) => Math.min(a, b)), finite.reduce((a, b) => Math.max(a, b))]
    : [1, 10];
  const [from, to] = [Math.log10(low / 1.2), Math.log10(high * 1.2)];
  const steps = to - from < 1 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : to - from < 2 ? [1, 2, 5] : [1, 3];
  const ticks = [];
  for (let decade = Math.floor(from); decade <= to; decade++)
    for (const step of steps)
      if (Math.log10(step) + decade > from && Math.log10(step) + decade < to) ticks.push(step * 10 ** decade);
  return {
    type: "log",
    range: [from, to],
    tickvals: ticks,
    ticktext: ticks.map((tick) => (isTime ? seconds(tick) : count(tick, 3))),
    title: { text: `${title} (log scale)` },
  };
}

function drawHistory() {
  const { trial, share } = page.data.history;
  $("search").hidden = !trial.length;
  if (!trial.length) return;
  fill("history-note", page.data.texts.history);
  chart(
    "history-chart",
    [
      {
        type: "scatter",
        mode: "lines",
        x: trial,
        y: share.map((value) => 100 * value),
        line: { shape: "hv", color: colour("front"), width: 2.2 },
        fill: "tozeroy",
        fillcolor: colour("front", 0.13),
        hovertemplate: "after trial %{x}: %{y:.1f} %<extra></extra>",
      },
    ],
    {
      height: 280,
      xaxis: { title: { text: "trial" } },
      yaxis: { title: { text: "hypervolume (%)" }, rangemode: "tozero" },
    },
    `Hypervolume of the front after each trial: it ends at ${percent(share[share.length - 1])}.`,
  );
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
  const [effect, name] = [`${metric()}_effect`, metricName()];
  const spread = (rows) => Math.max(...rows.map((r) => r[effect])) - Math.min(...rows.map((r) => r[effect]));
  const ranked = [...choices.values()].sort((a, b) => spread(b) - spread(a));
  const all = $("all-choices").getAttribute("aria-expanded") === "true";
  $("all-choices").hidden = ranked.length <= FEW;
  fill("all-choices", all ? `Only the ${FEW} with the largest effect` : `Show all ${ranked.length}`);
  const shown = (all ? ranked : ranked.slice(0, FEW)).reverse();
  const names = shown.map((rows) => plain(`stage ${rows[0].stage} · ${kinds[rows[0].kind] || rows[0].kind}`));
  const most = Math.max(...shown.map((rows) => rows.length));
  const tints = Array.from({ length: most }, (_, i) => ["ds", "ir", "er", "cn", "end"][i % 5]).map((op) =>
    colour(`op-${op}`),
  );
  const side = (key, error, factor, unit) =>
    tints.map((tint, i) => {
      const some = shown.flatMap((rows, place) =>
        rows[i] ? [[rows[i], place + 0.16 * ((rows.length - 1) / 2 - i)]] : [],
      );
      return {
        type: "scatter",
        mode: "markers+text",
        x: some.map(([row]) => factor * row[key]),
        y: some.map(([, place]) => place),
        marker: { color: tint, size: 9 },
        showlegend: false,
        cliponaxis: false,
        error_x: error
          ? { type: "data", array: some.map(([row]) => 2 * factor * row[error]), color: tint, thickness: 1.2, width: 0 }
          : {},
        hovertemplate: some.map(
          ([row]) =>
            `${plain(kinds[row.kind] || row.kind)} <b>${plain(row.value)}</b> in stage ${row.stage}<br>` +
            (error
              ? `${signed(100 * row[key], 2)} ± ${(200 * row[error]).toFixed(2)} points`
              : `${row[key] < 0 ? "−" : "+"}${count(Math.abs(row[key]))} MAdds`) +
            `<br>in ${row.trials} trained networks<extra></extra>`,
        ),
        text: some.map(([row]) => plain(row.value)),
        textposition: "top center",
        textfont: { size: 9.5, color: tint },
      };
    });
  const layout = (title) => ({
    height: 90 + 42 * shown.length,
    hovermode: "closest",
    xaxis: { title: { text: title }, zeroline: true, zerolinecolor: colour("soft") },
    yaxis: { tickvals: names.map((_, i) => i), ticktext: names, range: [-0.7, shown.length - 0.2], showgrid: true },
  });
  chart(
    "effects-accuracy",
    side(effect, `${effect}_sd`, 100),
    layout(`effect on ${name} (points)`),
    `Effect of each choice on ${name}, the largest first: ${names.at(-1)}.`,
  );
  chart("effects-madds", side("madds_effect", null, 1), layout("effect on MAdds"), "Effect of each choice on MAdds.");
}

const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
