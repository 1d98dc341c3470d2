"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
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

  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  const titled = (title, place) => {
    const box = element("div", undefined, { class: "titled" });
    box.append(element("h3", title), place);
    return box;
  };

  // Charts: each is drawn when it comes into view, and again when the theme changes.

  const charts = new Map();
  const inView = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
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

  // Accuracy

  const timesteps = { title: { text: "timestep" }, dtick: undefined, rangemode: "tozero", tickformat: "d" };
  const integers = (count) => ({ ...timesteps, dtick: Math.max(1, Math.ceil(count / 12)), range: [-0.2, count - 0.8] });

  if (byId("average-chart")) {
    const average = data.accuracy.average;
    chart(byId("average-chart"), () => ({
      traces: average.map((run, i) => ({
        x: range(0, run.value.length), y: run.value.map(percent), name: short(run.run), mode: "lines+markers",
        line: { color: colour(i), dash: DASHES[i % DASHES.length] }, marker: { symbol: SYMBOLS[i % SYMBOLS.length], size: 8 },
        connectgaps: true, hovertemplate: "timestep %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
      })),
      layout: {
        xaxis: integers(Math.max(...average.map((run) => run.value.length))), yaxis: { rangemode: "tozero", ticksuffix: " %" },
        showlegend: average.length > 1,
      },
    }));
  }

  function skillFigure(skill) {
    const traces = [];
    skill.runs.forEach((run, i) => {
      const known = run.R.flatMap((value, t) => value === null ? [] : [t]);
      const edge = (sign) => known.map((t) => 100 * (run.R[t] + sign * (run.stderr[t] || 0)));
      traces.push({
        x: [...known, ...known.slice().reverse()], y: [...edge(1), ...edge(-1).reverse()], fill: "toself",
        fillcolor: faint(colour(i)), line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
      }, {
        x: known, y: known.map((t) => 100 * run.R[t]), name: short(run.run), mode: "lines+markers",
        line: { color: colour(i), dash: DASHES[i % DASHES.length] }, marker: { symbol: SYMBOLS[i % SYMBOLS.length], size: 7 },
        customdata: known.map((t) => 100 * (run.stderr[t] || 0)),
        hovertemplate: "timestep %{x}: %{y:.1f} ± %{customdata:.1f} %<extra>%{fullData.name}</extra>",
      });
    });
    const arrivals = [...new Set(skill.runs.map((run) => run.introduced).filter((t) => t !== null))];
    return {
      traces,
      layout: {
        xaxis: integers(Math.max(...skill.runs.map((run) => run.R.length))), yaxis: { range: [-2, 102], ticksuffix: " %" },
        shapes: arrivals.map((t) => ({
          type: "line", x0: t, x1: t, yref: "paper", y0: 0, y1: 1, line: { color: ink().text, width: 1.2, dash: "dash" },
        })),
        showlegend: skill.runs.length > 1,
      },
    };
  }

  if (byId("skill-charts")) {
    for (const skill of data.accuracy.skills) {
      const last = skill.runs[0].R.at(-1);
      const told = last === null ? "not tested last" : `${percent(last).toFixed(1)} % at the last timestep`;
      const place = element("div", undefined, { class: "chart", role: "img", "aria-label": `Accuracy on ${skill.name} over time: ${told}. The matrix above has the numbers.` });
      byId("skill-charts").append(titled(skill.name, place));
      chart(place, () => skillFigure(skill));
    }
  }

  // Pool and costs

  if (byId("pool-chart")) {
    const bars = [["live", "held after it"], ["arrived", "arrived"], ["used", "trained on"], ["pruned", "pruned"], ["rejected", "rejected"], ["quarantined", "quarantined"]];
    const x = data.pool.map((row) => row.timestep);
    chart(byId("pool-chart"), () => ({
      traces: bars.map(([key, name], i) => ({
        type: "bar", x, y: data.pool.map((row) => row[key]), name, marker: { color: colour(i), pattern: pattern(i) },
        hovertemplate: `timestep %{x}: %{y} ${name}<extra></extra>`,
      })),
      layout: { barmode: "group", showlegend: true, yaxis: { title: { text: "samples" } }, xaxis: { ...timesteps, dtick: Math.max(1, Math.ceil(x.length / 12)), rangemode: "normal" } },
    }));
  }

  if (byId("cost-chart")) {
    const phases = [...new Set(data.costs.flatMap((row) => Object.keys(row.seconds)))];
    chart(byId("cost-chart"), () => ({
      traces: phases.map((phase, i) => ({
        type: "bar", x: data.costs.map((row) => row.timestep), y: data.costs.map((row) => row.seconds[phase] ?? 0), name: phase,
        marker: { color: colour(i), pattern: pattern(i) },
        hovertemplate: `timestep %{x}: %{y:.1f} s ${phase}<extra></extra>`,
      })),
      layout: { barmode: "stack", showlegend: true, yaxis: { title: { text: "seconds" } }, xaxis: { ...timesteps, dtick: Math.max(1, Math.ceil(data.costs.length / 12)), rangemode: "normal" } },
    }));
  }

  // Scores

  function scoreFigure(found) {
    const width = (found.end - found.start) / found.every.length;
    const x = found.every.map((_, i) => found.start + width * (i + 0.5));
    const bars = (y, name, i) => ({
      type: "bar", x, y, width, name, marker: { color: colour(i), opacity: i ? 1 : 0.45 },
      hovertemplate: `%{y} ${name} near %{x:.4g}<extra></extra>`,
    });
    return {
      traces: [bars(found.every, "all", 0), bars(found.selected, "trained on", 1)],
      layout: { barmode: "overlay", bargap: 0, showlegend: true, yaxis: { title: { text: "samples" } } },
    };
  }

  function showScores() {
    const timestep = Number(byId("scores-timestep").value);
    const here = byId("score-charts");
    for (const place of here.querySelectorAll(".chart")) {
      Plotly.purge(place);
      charts.delete(place);
    }
    here.replaceChildren();
    for (const found of data.scores.filter((each) => each.timestep === timestep)) {
      if (!found.judged) {
        here.append(element("p", `${found.expert} could judge none of the samples.`, { class: "absent" }));
        continue;
      }
      const place = element("div", undefined, { class: "chart", role: "img", "aria-label": `Distribution of ${found.expert} at timestep ${timestep}: median ${found.median.toPrecision(4)}. The table below has the numbers.` });
      here.append(titled(found.expert, place));
      chart(place, () => scoreFigure(found));
    }
  }

  if (byId("scores-timestep")) {
    byId("scores-timestep").addEventListener("change", showScores);
    showScores();
  }

  // The map

  if (byId("map-chart")) map();

  function map() {
    const place = byId("map-chart"), card = byId("map-card");
    const MOST_GROUPS = 24;
    let groups = [];
    let at = -1;
    const current = () => data.maps[Number(byId("map-timestep").value)];
    const asks = () => byId("map-colour").value;

    function valueOf(here, i) {
      const by = asks();
      if (by === "selected") return here.selected[i] ? "trained on" : "not trained on";
      if (by === "pruned") return here.pruned[i] ? "pruned" : "kept";
      return here[by][i];
    }

    function regroup(here) {
      const found = new Map();
      here.samples.forEach((_, i) => {
        const value = valueOf(here, i);
        if (!found.has(value)) found.set(value, []);
        found.get(value).push(i);
      });
      const order = (a, b) => typeof a === "number" ? a - b : a < b ? -1 : 1;
      const bySize = [...found].sort(([, a], [, b]) => b.length - a.length);
      const named = bySize.splice(0, bySize.length > MOST_GROUPS ? MOST_GROUPS - 1 : MOST_GROUPS);
      const sorted = named.sort(([a], [b]) => order(a, b)).map(([value, rows]) => ({ value, rows }));
      return bySize.length ? [...sorted, { value: "all others", rows: bySize.flatMap(([, rows]) => rows) }] : sorted;
    }

    function figure() {
      const here = current();
      groups = regroup(here);
      const axis = (n) => ({
        title: { text: `component ${n + 1} (${(100 * here.explained[n]).toFixed(1)} % of the variance)` }, showticklabels: false, zeroline: false,
      });
      return {
        traces: groups.map(({ value, rows }, g) => ({
          type: "scatter", mode: "markers", name: `${short(String(value))} (${rows.length})`, x: rows.map((i) => here.x[i]), y: rows.map((i) => here.y[i]),
          customdata: rows, hoverinfo: "none",
          marker: { color: colour(g), symbol: SYMBOLS[(g + Math.floor(g / LIGHT.length)) % SYMBOLS.length], size: rows.length > 400 ? 6 : 8, opacity: 0.8, line: { width: 0.5, color: ink().surface } },
        })),
        layout: { showlegend: true, xaxis: axis(0), yaxis: axis(1), hovermode: "closest", dragmode: "pan", margin: { l: 8, r: 8, t: 34, b: 8 }, uirevision: `${here.timestep}` },
      };
    }
    figure.options = { scrollZoom: false, displayModeBar: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
    figure.after = () => {
      place.on("plotly_hover", ({ points }) => show(points[0].customdata));
      place.on("plotly_click", ({ points }) => show(points[0].customdata));
    };

    function show(i) {
      const here = current();
      const id = here.samples[i];
      const [dataset, origin, skill, text, picked, told] = data.samples[id];
      at = i;
      const facts = [["Sample", id.slice(0, 12)], ["From", `${dataset}, ${origin}`], ["Skill", skill], ["Cluster", here.cluster[i]], ["Decided by", here.expert[i]], ["What became of it", here.reason[i]]];
      const list = element("dl");
      for (const [name, value] of facts) list.append(element("dt", name), element("dd", String(value)));
      const picture = picked >= 0 ? element("img", undefined, { src: data.pictures[picked], alt: `Sample ${id.slice(0, 12)}: ${told}`, title: told })
        : element("p", `No picture: ${told}.`, { class: "quiet" });
      card.replaceChildren(picture, element("p", text || "(no text)"), list);
    }

    function point(i) {
      show(i);
      const curve = groups.findIndex(({ rows }) => rows.includes(i));
      const number = groups[curve].rows.indexOf(i);
      if (charts.get(place).drawn) Plotly.Fx.hover(place, [{ curveNumber: curve, pointNumber: number }]);
    }

    function tell() {
      const here = current();
      const drawn = here.samples.length + here.without;
      const part = drawn < here.total ? `A random ${drawn.toLocaleString("en")} of the ${here.total.toLocaleString("en")} samples measured` : `All ${here.total.toLocaleString("en")} samples measured`;
      byId("map-told").textContent = part + (here.without ? `; ${here.without} have no vector and are not on the map.` : ".");
    }

    function find() {
      const words = byId("map-find").value.trim().toLowerCase();
      const here = current();
      const matches = !words ? [] : here.samples.flatMap((id, i) => {
        const [dataset, origin, , text] = data.samples[id];
        return id.startsWith(words) || `${dataset} ${origin} ${text}`.toLowerCase().includes(words) ? [i] : [];
      });
      const items = matches.slice(0, 20).map((i) => {
        const button = element("button", `${here.samples[i].slice(0, 12)} ${data.samples[here.samples[i]][3].slice(0, 40)}`, { type: "button" });
        button.addEventListener("click", () => point(i));
        const item = element("li");
        item.append(button);
        return item;
      });
      if (words) items.push(element("li", `${matches.length} found${matches.length > 20 ? ", the first 20 shown" : ""}`, { class: "quiet", role: "status" }));
      byId("map-found").replaceChildren(...items);
    }

    place.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !current().samples.length) return;
      event.preventDefault();
      const visible = groups.flatMap(({ rows }, g) => place.data && place.data[g].visible === "legendonly" ? [] : rows);
      if (!visible.length) return;
      point(visible[(visible.indexOf(at) + step + visible.length) % visible.length]);
    });
    byId("map-colour").addEventListener("change", () => redraw(place));
    byId("map-timestep").addEventListener("change", () => { at = -1; redraw(place); tell(); find(); card.replaceChildren(element("p", "No sample is pointed at.", { class: "quiet" })); });
    byId("map-find").addEventListener("input", find);
    groups = regroup(current());
    chart(place, figure);
    tell();
  }

  // Copying

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = byId(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        byId("copied").textContent = "Copied.";
      } catch {
        getSelection().selectAllChildren(source);
        byId("copied").textContent = "Selected; copy it with Ctrl-C.";
      }
    });
  }
})();
