// A page that a server stands behind: it asks how far the run is, and takes over what has changed.

const EVERY = 1000;
const sources = new Map([...document.querySelectorAll("main > section")].map((section) => [section.id, section.outerHTML]));
const parts = new Map(Object.entries(data).map(([name, value]) => [name, JSON.stringify(value)]));

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || `the server answered ${answer.status}`);
  }
  return answer;
}

async function search(words) {
  try {
    return (await (await ask(`api/samples?find=${encodeURIComponent(words)}`)).json()).samples;
  } catch {
    return null;
  }
}

async function why(id) {
  try {
    const { samples } = await (await ask(`api/why?sample=${encodeURIComponent(id)}`)).json();
    return samples.flatMap((sample) => sample.decisions.map((each) => [each.timestep, each.reason]));
  } catch {
    return null;
  }
}

function tellNow(now) {
  const lead = byId("lead");
  if (lead.textContent !== now.told) lead.textContent = now.told;
  byId("now").hidden = now.timestep === null;
  if (now.timestep === null) return;
  const bar = byId("now-bar"), doing = now.doing;
  const working = now.writer === "working" || now.writer === "unknown";
  bar.hidden = !working;
  if (doing && doing.total) {
    bar.max = doing.total;
    bar.value = doing.done;
  } else {
    bar.removeAttribute("value");
  }
  byId("now-doing").textContent = !working ? "" : doing ? `${doing.what}: ${doing.done}${doing.total ? ` of ${doing.total}` : ""}` : `${now.phase} …`;
  byId("now-phases").replaceChildren(...now.phases.map(({ phase, seconds }) => {
    const state = seconds !== null ? "done" : phase === now.phase ? "current" : "to come";
    const item = element("li", seconds !== null ? `${phase} ${seconds.toFixed(1)} s` : phase, { "data-state": state });
    if (state === "current") item.setAttribute("aria-current", "step");
    return item;
  }));
}

function remember(section) {
  const fields = [...section.querySelectorAll("select, input")].map((field) => {
    const last = field.tagName === "SELECT" && field.selectedIndex === 0 && field.id.endsWith("timestep");
    return last ? null : [field.id, field.value];
  });
  const open = [...section.querySelectorAll("details")].map((each) => [each.querySelector("summary").textContent, each.open]);
  const card = section.querySelector("#map-card");
  return { card: card?.dataset.sample && card, fields: fields.filter(Boolean), open: new Map(open), focus: section.contains(document.activeElement) ? document.activeElement.id : "" };
}

function restore(section, kept, built) {
  for (const [id, value] of kept.fields) {
    const field = byId(id);
    if (!field || (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value))) continue;
    field.value = value;
    if (id === "scores-timestep") showScores();
  }
  if (built) {
    if (kept.card) {
      byId("map-card").replaceChildren(...kept.card.childNodes);
      byId("map-card").dataset.sample = kept.card.dataset.sample;
    }
    built.tell();
    for (const [id, value] of kept.fields) if (id === "map-skill" && [...byId(id).options].some((option) => option.value === value)) byId(id).value = value;
    built.again();
    built.find();
  }
  for (const details of section.querySelectorAll("details")) {
    const was = kept.open.get(details.querySelector("summary").textContent);
    if (was !== undefined) details.open = was;
  }
  if (kept.focus && byId(kept.focus)) byId(kept.focus).focus({ preventScroll: true });
}

function replace(id, fresh) {
  const old = byId(id);
  const kept = remember(old);
  for (const place of [...charts.keys()]) if (old.contains(place)) forget(place);
  const section = document.importNode(fresh, true);
  old.replaceWith(section);
  restore(section, kept, build(id));
}

async function update() {
  const found = new DOMParser().parseFromString(await (await ask("./")).text(), "text/html");
  data = JSON.parse(found.getElementById("data").textContent);
  const changed = new Set();
  for (const [name, value] of Object.entries(data)) {
    const text = JSON.stringify(value);
    if (parts.get(name) !== text) changed.add(name);
    parts.set(name, text);
  }
  for (const fresh of found.querySelectorAll("main > section")) {
    const source = fresh.outerHTML;
    if (sources.get(fresh.id) === source && !SECTIONS[fresh.id]?.of.some((name) => changed.has(name))) continue;
    sources.set(fresh.id, source);
    replace(fresh.id, fresh);
  }
  document.documentElement.dataset.version = data.live.version;
}

async function look() {
  try {
    if (!document.hidden) {
      const now = await (await ask("api/status")).json();
      tellNow(now);
      if (now.version !== data.live.version) await update();
      byId("now-lost").hidden = true;
    }
  } catch (error) {
    byId("now-lost").hidden = false;
    byId("now-lost").textContent = `This page stands still: ${error instanceof TypeError ? "the server does not answer" : error.message}. It goes on by itself once it can.`;
  }
  setTimeout(look, EVERY);
}

function live() {
  document.documentElement.dataset.version = data.live.version;
  // The token is in a cookie by now; in the address it would be seen over a shoulder.
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  tellNow(data.live);
  setTimeout(look, EVERY);
}
