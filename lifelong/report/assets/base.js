// What all parts of the page use: the data, small helpers, and charts that follow the theme.

let data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;

const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "cross", "x", "star"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
// Okabe and Ito's colours for all kinds of colour vision, deepened on white and lightened on black.
const LIGHT = ["#0072b2", "#c14f00", "#00805d", "#a8407d", "#5b4bb5", "#8a6a00", "#444a52"];
const DARK = ["#56b4e9", "#ff9d5c", "#2fcf9f", "#f09cca", "#b5a6ff", "#f0e442", "#d5d9de"];

const isDark = () => dark.matches && !printing;
const colour = (index) => (isDark() ? DARK : LIGHT)[index % LIGHT.length];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const ink = () => printing ? { text: "#000", line: "#b0b0b0", surface: "#fff" }
  : { text: css("--text"), line: css("--line"), surface: css("--surface") };
const pattern = (index) => ({ shape: ["", "/", "\\", "x", "-", "|", "+", "."][index % 8], fillmode: "overlay", fgcolor: ink().surface, fgopacity: 0.6, size: 7 });
const faint = (hex) => hex + "33";
// Plotly reads a little markup in its labels; names are text.
const label = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, most = 28) => label(text.length > most ? text.slice(0, most - 1) + "…" : text);
const percent = (value) => value === null ? null : 100 * value;
const range = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function titled(title, place) {
  const box = element("div", undefined, { class: "titled" });
  box.append(element("h3", title), place);
  return box;
}

// Each chart is drawn when it comes into view, and again when the theme changes.

const charts = new Map();
const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting && charts.has(entry.target)) draw(entry.target);
}, { rootMargin: "300px" });

function chart(place, figure) {
  charts.set(place, { figure, drawn: false });
  inView.observe(place);
}

function draw(place) {
  const found = charts.get(place);
  const { traces, layout = {} } = found.figure();
  const { text, line, surface } = ink();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const whole = {
    paper_bgcolor: surface, plot_bgcolor: surface, margin: { l: 8, r: 12, t: 10, b: 8 },
    font: { color: text, size: 12, family: "system-ui, sans-serif" }, dragmode: false, showlegend: false,
    hoverlabel: { bgcolor: surface, bordercolor: text, font: { color: text } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal" },
    ...layout,
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  const options = { responsive: true, displaylogo: false, displayModeBar: false, ...found.figure.options };
  const done = Plotly.react(place, traces, whole, options);
  if (!found.drawn) {
    found.drawn = true;
    inView.unobserve(place);
    if (found.figure.after) done.then(() => found.figure.after(place));
  }
}

function forget(place) {
  inView.unobserve(place);
  if (charts.get(place).drawn) Plotly.purge(place);
  charts.delete(place);
}

const redraw = (place) => { if (charts.get(place).drawn) draw(place); };
const redrawAll = () => charts.forEach((found, place) => { if (found.drawn) draw(place); });
dark.addEventListener("change", redrawAll);

addEventListener("beforeprint", () => {
  printing = true;
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.opened = "";
  }
  charts.forEach((_, place) => {
    place.style.height = `${place.clientHeight}px`;
    draw(place);
  });
});
addEventListener("afterprint", () => {
  printing = false;
  for (const details of document.querySelectorAll("details[data-opened]")) {
    details.open = false;
    delete details.dataset.opened;
  }
  charts.forEach((_, place) => place.style.removeProperty("height"));
  redrawAll();
});
