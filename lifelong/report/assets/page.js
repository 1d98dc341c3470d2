// The sections that have something to draw or to press, and the data that each is made from.

const SECTIONS = {
  gained: { of: ["accuracy"], needs: "average-chart", build: averageChart },
  curves: { of: ["accuracy"], needs: "skill-charts", build: skillCharts },
  pool: { of: ["pool"], needs: "pool-chart", build: poolChart },
  map: { of: ["maps", "samples", "pictures"], needs: "map-chart", build: map },
  scores: { of: ["scores"], needs: "scores-timestep", build: scoreCharts },
  costs: { of: ["costs"], needs: "cost-chart", build: costChart },
  settings: { of: [], needs: "copied", build: copying },
};

function copying() {
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
}

function build(id) {
  const section = SECTIONS[id];
  if (section && byId(section.needs)) return section.build();
}
