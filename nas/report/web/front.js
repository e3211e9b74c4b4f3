"use strict";
// The front: all networks in one picture, its members as chips, and the network that is looked at.

const MANY = 1500; // points from which WebGL draws them, which is quicker but prints more coarsely
const WEBGL = Boolean(document.createElement("canvas").getContext("webgl")); // not every browser has it

const costText = (key) => page.data.costs.find((cost) => cost.key === key);
const baseline = () => page.trials.find((trial) => trial.baseline) || null;
const frontOf = (key) =>
  page.trials.filter((trial) => trial.front && known(trial[key])).sort((a, b) => a[key] - b[key]);

function drawFront() {
  const key = page.cost;
  const drawn = page.trials.filter((trial) => known(trial[key]));
  const done = drawn.filter((trial) => trial.state === "COMPLETE");
  const front = frontOf(key);
  const repeated = done.some((trial) => trial.runs > 1);
  const near = done.filter((trial) => trial.runs > 1 && !trial.front);
  const rest = done.filter((trial) => trial.runs <= 1 && !trial.front);
  const kind = WEBGL && page.trials.length > MANY ? "scattergl" : "scatter";
  const points = (trials, name, marker, more = {}) => ({
    type: kind,
    mode: "markers",
    name,
    x: trials.map((t) => t[key]),
    y: trials.map((t) => 100 * score(t)),
    customdata: trials.map((t) => t.trial),
    marker: { ...marker },
    hovertemplate: trials.map(hoverText),
    ...more,
  });
  const bars = (trials, tint) => ({
    type: "data",
    array: trials.map((t) => 100 * (t.bar || 0)),
    color: tint,
    thickness: 1.2,
    width: 3,
  });
  const traces = [];
  if (rest.length)
    traces.push(
      points(rest, `trained once (${rest.length})`, {
        color: colour("pale"),
        size: page.trials.length > MANY ? 4 : 7,
        opacity: page.trials.length > MANY ? 0.55 : 1,
      }),
    );
  if (near.length)
    traces.push(
      points(
        near,
        `near misses (${near.length})`,
        { color: colour("near"), size: 8 },
        { error_y: bars(near, colour("near")) },
      ),
    );
  let best = -Infinity;
  const steps = front.filter((trial) => score(trial) >= best && (best = score(trial)) !== null);
  traces.push({
    type: kind,
    mode: "lines",
    x: steps.map((t) => t[key]),
    y: steps.map((t) => 100 * score(t)),
    line: { shape: "hv", color: colour("front"), width: 1.6 },
    hoverinfo: "skip",
    showlegend: false,
  });
  traces.push(
    points(
      front,
      repeated ? `front of means (${front.length})` : `front, unconfirmed (${front.length})`,
      { color: colour("front"), size: 10 },
      { error_y: bars(front, colour("front")) },
    ),
  );
  const picked = drawn.filter((trial) => trial.baseline);
  traces.push(
    points(picked, "baseline", {
      symbol: "star",
      color: colour("pick"),
      size: 19,
      line: { color: colour("card"), width: 1.5 },
    }),
  );
  const pins = page.pins.map((pin) => page.byNumber.get(pin)).filter((t) => t && known(score(t)) && known(t[key]));
  traces.push({
    type: kind,
    mode: "markers+text",
    x: pins.map((t) => t[key]),
    y: pins.map((t) => 100 * score(t)),
    text: pins.map((t) => `<b>${letter(t.trial)}</b>`),
    textposition: "top center",
    showlegend: false,
    hoverinfo: "skip",
    cliponaxis: false,
    textfont: { color: colour("ink"), size: 13 },
    marker: { symbol: "circle-open", size: 20, color: colour("ink"), line: { width: 1.8 } },
  });
  const label = costText(key);
  chart(
    "front-chart",
    traces,
    {
      height: narrow() ? 400 : 500,
      uirevision: key,
      xaxis: logAxis(
        traces.flatMap((trace) => trace.x),
        narrow() ? label.short : label.label,
        isTime(key),
      ),
      yaxis: {
        title: {
          text: `proxy ${metricName()} (%), ${repeated ? "mean over trainings" : "one training each"}`,
        },
      },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hovermode: "closest",
    },
    `Proxy ${metricName()} against ${label.short}: ${done.length} networks, ${front.length} on the front. The same
    networks are in the table below; the front's are the buttons after this picture.`,
    {
      plotly_hover: (event) => show(event.points[0].customdata),
      plotly_click: (event) => {
        show(event.points[0].customdata);
        togglePin(event.points[0].customdata);
      },
    },
  );
}

function hoverText(trial) {
  const role = trial.baseline ? " · baseline" : trial.front ? " · front" : "";
  const cost = costText(page.cost);
  return (
    `<b>trial ${trial.trial}</b>${role}<br>${plain(scoreText(trial))}<br>` +
    `${amount(cost.key, trial[cost.key])} ${plain(cost.short)}<extra></extra>`
  );
}

/** Show a network beside the picture. */
function show(number) {
  const trial = page.byNumber.get(number);
  if (!trial || page.shown === number) return;
  page.shown = number;
  drawDetail();
}

function drawDetail() {
  const trial = page.byNumber.get(page.shown) || baseline() || page.trials[0];
  drawTrial("detail", trial, trial ? `Trial ${trial.trial}${trial.baseline ? ", the baseline" : ""}` : "");
}

/** The front's members as buttons, of which one is in the tab order: arrows move between them. */
function drawChips() {
  const key = page.cost;
  const front = frontOf(key);
  const held = document.activeElement && document.activeElement.dataset.chip;
  fill(
    "chips",
    ...front.map((trial, i) =>
      el(
        "button",
        {
          type: "button",
          class: trial.baseline ? "chip best" : "chip",
          "data-chip": trial.trial,
          tabindex: i ? -1 : 0,
          "aria-pressed": String(page.pins.includes(trial.trial)),
          onclick: () => togglePin(trial.trial),
          onfocus: () => show(trial.trial),
          onmouseenter: () => show(trial.trial),
        },
        el("b", {}, percent(score(trial))),
        el("span", {}, `${letter(trial.trial) ? `${letter(trial.trial)} · ` : ""}${amount(key, trial[key])}`),
      ),
    ),
  );
  if (held) $("chips").querySelector(`[data-chip="${held}"]`)?.focus({ preventScroll: true });
}

/** Move the focus among elements of which one is in the tab order. */
function rove(elements, from, step) {
  const to = elements[Math.max(0, Math.min(elements.length - 1, elements.indexOf(from) + step))];
  if (!to) return;
  elements.forEach((element) => {
    element.tabIndex = element === to ? 0 : -1;
  });
  to.focus();
}

function bootFront() {
  $("cost").addEventListener("change", () => {
    page.cost = $("cost").value;
    drawFront();
    drawChips();
  });
  $("chips").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!step) return;
    event.preventDefault();
    rove([...$("chips").children], event.target, step);
  });
}
