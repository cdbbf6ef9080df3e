// Draws the figures that stand in the page's data, at the width of the column, also on paper.
"use strict";

const pageData = JSON.parse(document.getElementById("page-data").textContent);

(function () {
  const paperWidth = 680; // A4 without its margins, in CSS pixels

  function draw(element) {
    const figure = pageData.charts[element.dataset.chart];
    Plotly.newPlot(element, figure.data, figure.layout, { displayModeBar: false, responsive: true, doubleClick: false });
    element.drawn = true;
  }

  const charts = [...document.querySelectorAll("[data-chart]")];
  for (const element of charts) {
    const folded = element.closest("details");
    if (folded) folded.addEventListener("toggle", () => folded.open && !element.drawn && draw(element));
    else draw(element);
  }

  // plotly's own resize waits, which a printer does not
  function setWidth(width) {
    for (const element of charts) {
      if (!element.drawn || !element.offsetParent) continue;
      const columns = element.closest(".grid") ? 3 : 1;
      Plotly.relayout(element, width ? { width: width / columns - 12 * (columns - 1) } : { width: null, autosize: true });
    }
  }
  window.addEventListener("beforeprint", () => setWidth(paperWidth));
  window.addEventListener("afterprint", () => setWidth(null));
})();
