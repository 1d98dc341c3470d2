// The map of the samples, the search among them, and the card of the one that is pointed at.

const MOST_GROUPS = 24;
const FOUND_SHOWN = 20;

function map() {
  const place = byId("map-chart"), card = byId("map-card");
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
    const skill = byId("map-skill").value;
    here.samples.forEach((_, i) => {
      if (skill && here.skill[i] !== skill) return;
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

  // A value keeps its colour when only some skills are shown.
  function numbers(here) {
    const values = [...new Set(here.samples.map((_, i) => valueOf(here, i)))];
    return new Map(values.sort((a, b) => typeof a === "number" ? a - b : a < b ? -1 : 1).map((value, n) => [value, n]));
  }

  function figure() {
    const here = current();
    groups = regroup(here);
    const number = numbers(here);
    const axis = { showticklabels: false, zeroline: false, showgrid: false, title: { text: "" } };
    return {
      traces: groups.map(({ value, rows }) => {
        const g = number.get(value) ?? number.size;
        return {
          type: "scatter", mode: "markers", name: `${short(asks() === "cluster" ? `cluster ${value}` : String(value))} (${rows.length})`,
          x: rows.map((i) => here.x[i]), y: rows.map((i) => here.y[i]), customdata: rows, hoverinfo: "none",
          marker: { color: colour(g), symbol: SYMBOLS[(g + Math.floor(g / LIGHT.length)) % SYMBOLS.length], size: rows.length > 400 ? 6 : 8, opacity: 0.8, line: { width: 0.5, color: ink().surface } },
        };
      }),
      layout: { showlegend: true, xaxis: axis, yaxis: axis, hovermode: "closest", dragmode: "pan", margin: { l: 8, r: 8, t: 34, b: 8 }, uirevision: `${here.timestep}` },
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
    at = i;
    const [dataset, origin, skill, text, picked, told] = data.samples[id];
    const facts = [["Sample", id.slice(0, 12)], ["From", `${dataset}, ${origin}`], ["Skill", skill], ["Cluster", here.cluster[i]], ["Decided by", here.expert[i]]];
    const reasons = data.maps.flatMap((each) => {
      const row = each.samples.indexOf(id);
      return row < 0 ? [] : [[each.timestep, each.reason[row]]];
    });
    fill(id, picked >= 0 ? [data.pictures[picked]] : [], told, text, facts, reasons);
  }

  function fill(id, pictures, told, text, facts, reasons) {
    card.dataset.sample = id;
    const list = element("dl");
    for (const [name, value] of facts) list.append(element("dt", name), element("dd", String(value)));
    const shown = pictures.map((src, n) => element("img", undefined, { src, alt: `Sample ${id.slice(0, 12)}: ${n ? `picture ${n + 1}` : told}`, title: told }));
    if (!shown.length) shown.push(element("p", `No picture: ${told}.`, { class: "quiet" }));
    card.replaceChildren(...shown, element("p", text || "(no text)"), list, because(reasons));
    // A server knows of every timestep and sample, the page of those on its maps.
    if (data.live) why(id).then((known) => {
      if (known && card.dataset.sample === id) card.querySelector(".why").replaceWith(because(known));
    });
  }

  function because(reasons) {
    const box = element("div", undefined, { class: "why" });
    box.append(element("h3", "What became of it"));
    const list = element("dl");
    for (const [timestep, reason] of reasons) list.append(element("dt", `Timestep ${timestep}`), element("dd", reason));
    box.append(list);
    return box;
  }

  function point(i) {
    if (byId("map-skill").value && current().skill[i] !== byId("map-skill").value) {
      byId("map-skill").value = "";
      redraw(place);
    }
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
    const skills = [...new Set(here.skill)].sort();
    const chosen = byId("map-skill").value;
    byId("map-skill").replaceChildren(element("option", "all", { value: "" }), ...skills.map((skill) => element("option", skill, { value: skill })));
    byId("map-skill").value = skills.includes(chosen) ? chosen : "";
  }

  function onPage(words) {
    const here = current();
    return here.samples.flatMap((id) => {
      const [dataset, origin, , text] = data.samples[id];
      return id.startsWith(words) || `${dataset} ${origin} ${text}`.toLowerCase().includes(words) ? [{ sample_id: id, text }] : [];
    });
  }

  function choose(sample) {
    const i = current().samples.indexOf(sample.sample_id);
    if (i >= 0) return point(i);
    at = -1;
    const facts = [["Sample", sample.sample_id.slice(0, 12)], ["From", `${sample.dataset}, ${sample.origin}`], ["Skill", sample.skill], ["Now", sample.status]];
    fill(sample.sample_id, sample.pictures, sample.told, sample.text, facts, []);
  }

  async function find() {
    const words = byId("map-find").value.trim();
    let matches = words ? onPage(words.toLowerCase()) : [];
    if (words && data.live) {
      const known = await search(words);
      if (byId("map-find").value.trim() !== words) return;
      matches = known ?? matches;
    }
    const items = matches.slice(0, FOUND_SHOWN).map((sample) => {
      const button = element("button", `${sample.sample_id.slice(0, 12)} ${sample.text.slice(0, 40)}`, { type: "button" });
      button.addEventListener("click", () => choose(sample));
      const item = element("li");
      item.append(button);
      return item;
    });
    if (words) items.push(element("li", matches.length > FOUND_SHOWN ? `more than ${FOUND_SHOWN} found, the first of them shown` : `${matches.length} found`, { class: "quiet", role: "status" }));
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
  let waiting = 0;
  byId("map-find").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(find, data.live ? 250 : 0);
  });
  byId("map-colour").addEventListener("change", () => redraw(place));
  byId("map-skill").addEventListener("change", () => redraw(place));
  byId("map-timestep").addEventListener("change", () => {
    at = -1;
    tell();
    redraw(place);
    find();
    card.replaceChildren(element("p", "No sample is pointed at.", { class: "quiet" }));
  });
  tell();
  groups = regroup(current());
  chart(place, figure);
  return { find, tell, again: () => redraw(place) };
}
