// The charts of accuracy, of the pool, of the costs and of the experts' scores.

const timesteps = { title: { text: "timestep" }, dtick: undefined, rangemode: "tozero", tickformat: "d" };
const integers = (count) => ({ ...timesteps, dtick: Math.max(1, Math.ceil(count / 12)), range: [-0.2, count - 0.8] });

function averageChart() {
  const average = data.accuracy.average;
  chart(byId("average-chart"), () => ({
    traces: average.flatMap((run, i) => {
      const name = average.length > 1 ? `${short(run.run)}: ` : "";
      const line = {
        x: range(0, run.value.length), connectgaps: true, hovertemplate: "timestep %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
      };
      return [{
        ...line, y: run.value.map(percent), name: `${name}skills seen so far`, mode: "lines+markers",
        line: { color: colour(i), dash: DASHES[i % DASHES.length] }, marker: { symbol: SYMBOLS[i % SYMBOLS.length], size: 8 },
      }, {
        ...line, y: run.all.map(percent), name: `${name}all skills`, mode: "lines", line: { color: colour(i), dash: "dot", width: 1.5 },
      }];
    }),
    layout: {
      xaxis: integers(Math.max(...average.map((run) => run.value.length))), yaxis: { rangemode: "tozero", ticksuffix: " %" },
      showlegend: true,
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

function skillCharts() {
  for (const skill of data.accuracy.skills) {
    const last = skill.runs[0].R.at(-1);
    const told = last === null ? "not tested last" : `${percent(last).toFixed(1)} % at the last timestep`;
    const place = element("div", undefined, { class: "chart", role: "img", "aria-label": `Accuracy on ${skill.name} over time: ${told}. The matrix above has the numbers.` });
    byId("skill-charts").append(titled(skill.name, place));
    chart(place, () => skillFigure(skill));
  }
}

const byTimestep = (x) => ({ ...timesteps, tickmode: "array", tickvals: x.filter((_, i) => i % Math.ceil(x.length / 12) === 0), rangemode: "normal" });

function poolChart() {
  const bars = [["arrived", "arrived"], ["used", "trained on"], ["pruned", "pruned"], ["rejected", "rejected"], ["duplicates", "exact copies"], ["quarantined", "quarantined"]];
  const x = data.pool.map((row) => row.timestep);
  // A kind of which there was nothing would only push the others from their place.
  const shown = bars.filter(([key]) => data.pool.some((row) => row[key]));
  chart(byId("pool-chart"), () => ({
    traces: [
      ...shown.map(([key, name], i) => ({
        type: "bar", x, y: data.pool.map((row) => row[key]), name, marker: { color: colour(i + 1), pattern: pattern(i + 1) },
        hovertemplate: `timestep %{x}: %{y} ${name}<extra></extra>`,
      })),
      {
        type: "scatter", mode: "lines+markers", x, y: data.pool.map((row) => row.live), name: "held afterwards",
        line: { color: colour(0), width: 2.5 }, marker: { size: 8 }, hovertemplate: "after timestep %{x}: %{y} held<extra></extra>",
      },
    ],
    layout: { barmode: "group", showlegend: true, yaxis: { title: { text: "samples" }, rangemode: "tozero" }, xaxis: byTimestep(x) },
  }));
}

function costChart() {
  const phases = [...new Set(data.costs.flatMap((row) => Object.keys(row.seconds)))];
  const total = data.costs.reduce((sum, row) => sum + Object.values(row.seconds).reduce((a, b) => a + (b || 0), 0), 0);
  const took = (phase) => data.costs.reduce((sum, row) => sum + (row.seconds[phase] || 0), 0);
  const large = phases.filter((phase) => took(phase) >= 0.01 * total);
  const small = phases.filter((phase) => !large.includes(phase));
  const series = large.map((phase) => [phase, (row) => row.seconds[phase] ?? 0]);
  if (small.length) series.push([small.length > 1 ? "the others" : small[0], (row) => small.reduce((sum, phase) => sum + (row.seconds[phase] || 0), 0)]);
  const x = data.costs.map((row) => row.timestep);
  chart(byId("cost-chart"), () => ({
    traces: series.map(([name, of], i) => ({
      type: "bar", x, y: data.costs.map(of), name, marker: { color: colour(i), pattern: pattern(i) },
      hovertemplate: `timestep %{x}: %{y:.1f} s ${name}<extra></extra>`,
    })),
    layout: { barmode: "stack", showlegend: true, yaxis: { title: { text: "seconds" } }, xaxis: byTimestep(x) },
  }));
}

function scoreFigure(found) {
  const width = (found.end - found.start) / found.every.length;
  const x = found.every.map((_, i) => found.start + width * (i + 0.5));
  const bars = (y, name, i) => ({
    type: "bar", x, y, width, name, marker: { color: colour(i), opacity: i ? 1 : 0.45 },
    hovertemplate: `%{y} ${name} near %{x:.4g}<extra></extra>`,
  });
  return {
    traces: [bars(found.every, "all", 0), bars(found.selected, "trained on", 1)],
    layout: { barmode: "overlay", bargap: 0, showlegend: true, xaxis: { title: { text: "score" } }, yaxis: { title: { text: "samples" } } },
  };
}

function showScores() {
  const timestep = Number(byId("scores-timestep").value);
  const here = byId("score-charts");
  for (const place of here.querySelectorAll(".chart")) forget(place);
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

function scoreCharts() {
  byId("scores-timestep").addEventListener("change", showScores);
  showScores();
}
