// Draws what Prometheus returned for every panel of the dashboards: PANELS, with uPlot.
"use strict";

const WIDTH = 390, HEIGHT = 150;

function binary(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (Math.abs(value) >= 1024 && place < units.length - 1) { value /= 1024; place += 1; }
  return `${+value.toFixed(place > 2 ? 1 : 0)} ${units[place]}`;
}

function shown(value, unit) {
  if (unit === "bytes") return binary(value);
  if (unit === "Bps") return `${binary(value)}/s`;
  if (unit === "percentunit") return `${+(100 * value).toFixed(1)} %`;
  if (unit === "s") return value < 1 ? `${+(1000 * value).toFixed(1)} ms` : `${+value.toFixed(1)} s`;
  return `${+value.toFixed(2)}`;
}

function element(kind, parent, text = "", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = name;
  parent.append(made);
  return made;
}

function draw(panel, parent) {
  const times = [...new Set(panel.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const rows = panel.lines.map((line) => {
    const values = new Map(line.points);
    return times.map((time) => values.get(time) ?? null);
  });
  const colour = (index) => `hsl(${(210 + 137.5 * index) % 360} 70% ${38 + 10 * (index % 3)}%)`;
  const isBinary = panel.unit === "bytes" || panel.unit === "Bps";
  const options = {
    width: WIDTH,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    axes: [
      { size: 28, font: "10px system-ui", values: (_, all) => all.map((at) => new Date(1000 * at).toISOString().slice(11, 19)) },
      {
        size: 62,
        font: "10px system-ui",
        values: (_, all) => all.map((value) => shown(value, panel.unit)),
        ...(isBinary && { incrs: Array.from({ length: 30 }, (_, power) => 2 ** (power + 10)) }),
      },
    ],
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? 1.05 * high : 1] } },
    series: [{}, ...panel.lines.map((_, index) => ({ stroke: colour(index), width: 1.2, points: { show: false }, spanGaps: false }))],
  };
  new uPlot(options, [times, ...rows], parent);
  const legend = element("div", parent, "", "legend");
  panel.lines.forEach((line, index) => {
    const entry = element("span", legend);
    element("i", entry).style.background = colour(index);
    entry.append(line.legend);
  });
}

let board = "", parent = null;
for (const panel of PANELS) {
  if (panel.board !== board) {
    board = panel.board;
    element("h1", document.body, board);
    parent = element("div", document.body, "", "board");
  }
  const box = element("div", parent, "", "panel");
  element("h2", box, panel.title);
  if (panel.kind === "table") panel.lines.forEach((line) => element("div", box, line.legend, "words"));
  else draw(panel, box);
}
document.title = "drawn";
